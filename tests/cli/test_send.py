"""``send``: what a value becomes, who gets the event, and what is said when nobody does."""

import json
import os
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.clock import Clock, wall_us
from agent.control import ControlError
from agent.intake import spool_file
from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon

NOBODY = 65534
STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def config(tmp_path, state):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_directory = "{state}"\nvolatile = true\n{STREAM}')
    return path


@pytest.fixture
def send(config):
    def run(*arguments):
        return ga4_agent("send", "--config", str(config), *arguments)

    return run


def files(state):
    folder = state / "spool"
    return sorted(folder.iterdir()) if folder.exists() else []


def left(state):
    """The one event in the spool folder."""
    [path] = files(state)
    return json.loads(path.read_bytes())


def no_file(state):
    assert files(state) == []


# What a value is


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0", 0),
        ("-3", -3),
        ("21.5", 21.5),
        ("1e3", 1000.0),
        ("-2.5E-1", -0.25),
        ("true", True),
        ("false", False),
        ("9007199254740993", 9007199254740993),
        # Everything else is text, as it stands.
        ("01", "01"),
        ("+1", "+1"),
        ("1.", "1."),
        (".5", ".5"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        (" 1", " 1"),
        ("1 ", "1 "),
        ("1\n", "1\n"),
        ("\ufeff1", "\ufeff1"),
        ("\u0661", "\u0661"),
        ("True", "True"),
        ("null", "null"),
        ("[1]", "[1]"),
        ('{"a":1}', '{"a":1}'),
        ('"x"', '"x"'),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        ("[" * 5000, "[" * 5000),
        ("", ""),
        ("b=c", "b=c"),
        ("B4", "B4"),
        ("größe 😀", "größe 😀"),
        ('"\\ud800"', '"\\ud800"'),
    ],
)
def test_a_value_is_a_number_or_a_boolean_as_json_writes_it_else_a_text(send, state, text, value):
    result = send("vend", f"a={text}")
    assert result.exit_code == 0, result.output
    found = left(state)["params"]["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["vend", "a=1", "a=2"], "cannot take a twice"),
        (["vend", "a=1", "a="], "cannot take a twice"),
        (["vend", "a"], "found 'a', expected KEY=VALUE"),
        (["vend", "=1"], "found '=1', expected KEY=VALUE"),
        (["vend", ""], "found '', expected KEY=VALUE"),
        (["slot=B4"], "found slot=B4 where NAME belongs"),
        (["slot=B4", "price=2.5"], "found slot=B4 where NAME belongs"),
        (["vend", "a=\udcff"], "found bytes that are no UTF-8"),
        (["vend", "\udcff=a"], "found bytes that are no UTF-8"),
        (["\udcff"], "found bytes that are no UTF-8"),
        (["vend", "--user-id", "\udcff"], "found bytes that are no UTF-8"),
        (["vend", "--priority", "urgent"], "'urgent' is not one of"),
        (["vend", "--app-instance-id", "7"], "found 1 character, expected 32 hex digits"),
        (["vend", "--app-instance-id", "x" * 32], "found 32 characters, expected 32 hex digits"),
        (["vend", "--actor", "robot"], "'robot' is not one of"),
        (["vend", "--session", "on"], "'on' is not one of"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_wrong_usage_ends_with_2_and_does_nothing(send, state, arguments, told):
    result = send(*arguments)
    assert (result.exit_code, told in result.stderr) == (2, True), result.output
    no_file(state)


# The daemon is there


def taking():
    """A daemon's `send`, and the events that it took."""
    got = []

    def take(event):
        got.append(event)

    return got, take


def test_the_daemon_gets_the_whole_event(send, state):
    got, send_command = taking()
    with daemon(state, send=send_command):
        result = send(
            "vend", "slot=B4", "price=2.5", "--stream", "main", "--client-id", "7.7",
            "--user-id", "u", "--event-id", "sale-1", "--priority", "high",
            "--actor", "human", "--session", "start",
        )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    assert got == [
        {
            "name": "vend",
            "params": {"slot": "B4", "price": 2.5},
            "event_id": "sale-1",
            "stream": "main",
            "client_id": "7.7",
            "user_id": "u",
            "priority": "high",
            "actor": "human",
            "session": "start",
        }
    ]
    no_file(state)


def test_an_event_for_an_app_stream_can_name_its_installation(send, state, config):
    with config.open("a") as file:
        file.write('[stream.app]\nfirebase_app_id = "1:2:android:3"\n')
    refused = send("vend", "--stream", "app")
    assert (refused.exit_code, "requires an app_instance_id" in refused.stderr) == (1, True)
    assert send("vend", "--stream", "app", "--app-instance-id", "0a" * 16).exit_code == 0
    assert left(state)["app_instance_id"] == "0a" * 16


def test_each_event_has_an_id_of_its_own_so_that_a_repeat_can_be_told(send, state):
    got, send_command = taking()
    with daemon(state, send=send_command):
        for _ in range(2):
            assert send("vend").exit_code == 0
    first, second = (event.pop("event_id") for event in got)
    assert first != second
    assert got == [{"name": "vend", "params": {}}] * 2


def test_what_the_daemon_refuses_is_told_and_kept_nowhere(send, state):
    def refuse(event):
        raise ControlError("cannot take the event: name: found nothing, expected one")

    with daemon(state, send=refuse):
        result = send("vend")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "cannot take the event: name: found nothing, expected one\n"
    no_file(state)


# The daemon is down


def test_with_the_daemon_down_the_event_lies_in_the_spool_folder_for_the_group(send, state):
    before = wall_us()
    result = send("vend", "slot=B4", "--client-id", "7.7", "--priority", "low")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "in the spool folder" in result.stdout
    [path] = files(state)
    assert path.name.startswith("send-")
    assert path.suffix == ".json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o2770
    event = json.loads(path.read_bytes())
    stamp = event.pop("stamp")
    assert re.fullmatch("e[0-9a-f]{16}", event.pop("event_id"))
    assert event == {
        "name": "vend",
        "params": {"slot": "B4"},
        "client_id": "7.7",
        "priority": "low",
    }
    assert stamp.keys() == {"wall_us", "boot_us", "boot_id", "trusted"}
    assert before <= stamp["wall_us"] <= wall_us()
    assert stamp["boot_id"] == Clock().boot_id


def test_files_are_taken_in_the_order_of_their_names_which_is_that_of_writing(send, state):
    for number in range(5):
        assert send("vend", f"n={number}").exit_code == 0
    assert [json.loads(path.read_bytes())["params"]["n"] for path in files(state)] == [*range(5)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([""], "name: found an empty text, expected the event's name"),
        (["vend", "--stream", "mian"], "stream: found 'mian', expected one of main"),
        (["vend", "--client-id", ""], "client_id: found a text of 0 characters"),
        (["vend", "--event-id", "x" * 257], "event_id: found a text of 257 characters"),
        (["1st"], "name: found a name that does not start with a letter"),
        (["purchase", "currency=EUR", "value=1"], "transaction_id: found no transaction_id"),
    ],
)
def test_what_the_daemon_could_not_take_is_refused_at_once_and_nothing_is_left(
    send, state, arguments, told
):
    result = send(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("cannot take the event: ")
    assert told in result.stderr
    no_file(state)


def test_an_event_that_no_request_could_carry_is_refused_at_once(send, state, config):
    with config.open("a") as file:
        file.write('mode = "off"\n')  # else the text is cut
    result = send("vend", "a=" + "x" * 130_000)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "found an event of over 130000 bytes" in result.stderr
    no_file(state)


def test_a_named_spool_folder_is_used(send, state, config, tmp_path):
    with config.open("a") as file:
        file.write(f'[spool]\ndirectory = "{tmp_path}/in/spool"\n')
    assert send("vend").exit_code == 0
    assert len([*(tmp_path / "in" / "spool").iterdir()]) == 1


def test_without_a_spool_folder_the_event_cannot_be_kept_and_that_is_said(send, state, config):
    with config.open("a") as file:
        file.write("[spool]\nenabled = false\n")
    result = send("vend")
    assert result.exit_code == 1
    assert "the daemon is not running and [spool] is not enabled" in result.stderr
    no_file(state)


def test_without_a_configuration_it_ends_with_2_and_says_so(send, config):
    config.unlink()
    result = send("vend")
    assert result.exit_code == 2
    assert f"{config}: found no such file" in result.stderr


def test_with_a_broken_configuration_the_last_good_one_counts_as_it_does_for_the_daemon(
    send, state, config
):
    state.mkdir()
    (state / "last-good.toml").write_bytes(config.read_bytes())
    config.write_text(config.read_text() + "[htpp]\n")
    assert send("vend").exit_code == 0
    assert left(state)["name"] == "vend"


def test_a_spool_folder_that_cannot_be_made_is_told(send, state):
    state.mkdir()
    (state / "spool").write_text("a file in its place")
    result = send("vend")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"cannot keep the event in {state}/spool: Not a directory\n"


def test_programs_that_send_at_once_do_not_stand_in_each_others_way_at_making_the_folder(tmp_path):
    """The first event after the installation is often not alone, and the daemon makes it too."""
    together = 4
    with ThreadPoolExecutor(together) as pool:
        for number in range(100):
            folder = tmp_path / str(number) / "spool"
            folder.parent.mkdir()
            barrier = threading.Barrier(together)

            def make(folder=folder, barrier=barrier):
                barrier.wait()
                spool_file.make_folder(folder)
                spool_file.leave(folder, f"{threading.get_ident()}.json", b"{}")

            for done in [pool.submit(make) for _ in range(together)]:
                done.result()
            assert len([*folder.iterdir()]) == together
            assert [path.name for path in folder.parent.iterdir()] == ["spool"]


def test_root_leaves_it_as_the_services_user_and_follows_no_link_of_that_user(
    send, state, tmp_path
):
    if os.geteuid() != 0:
        pytest.skip("only root can work as another user: run the tests as root")
    for above in (tmp_path, *list(tmp_path.parents)[:2]):
        if above.owner() == "root" and above != above.parent:
            above.chmod(0o755)
    state.mkdir()
    os.chown(state, NOBODY, NOBODY)
    assert send("vend").exit_code == 0
    [path] = files(state)
    for made in (path, path.parent):
        assert (made.stat().st_uid, made.stat().st_gid) == (NOBODY, NOBODY)
    assert (os.geteuid(), os.getegid()) == (0, 0)
    path.unlink()
    path.parent.rmdir()
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o755)
    (state / "spool").symlink_to(roots)
    result = send("vend")
    assert result.exit_code == 1
    assert [*roots.iterdir()] == []


def test_who_may_not_reach_the_daemon_is_told_who_may(state, config):
    """As another user, in a process of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    state.mkdir(mode=0o700)
    result = as_nobody(config)
    assert result == {
        "exit_code": 1,
        "stderr": "cannot reach the daemon: you may not; run this as root, as the service's own "
        "user or as a member of its group\n",
    }


def test_who_may_not_write_the_spool_folder_is_told_who_may(state, config):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    state.mkdir(mode=0o755)
    (state / "spool").mkdir(mode=0o700)
    result = as_nobody(config)
    assert result["exit_code"] == 1
    assert result["stderr"].startswith(f"cannot keep the event in {state}/spool: you may not; run")
    no_file(state)


def as_nobody(config):
    """What `send` does for a user without rights. Its modules are loaded: they may be closed."""
    import agent.wiring  # noqa: F401 - see above

    for above in (config.parent, *list(config.parent.parents)[:2]):
        above.chmod(above.stat().st_mode | 0o055)
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            result = ga4_agent("send", "--config", str(config), "vend")
            said = {"exit_code": result.exit_code, "stderr": result.stderr}
            os.write(into, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    return json.loads(said)
