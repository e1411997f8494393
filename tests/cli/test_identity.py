"""``identity``: a person sees the device's id, changes it, or takes it out of an image."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agent.control import ControlError
from agent.hardware import facts
from agent.intake.identity import FILE_NAME, load_identity
from agent.ownership import StateLock
from agent.queue.event_queue import EventQueue
from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
NOBODY = 65534
MADE_US = 1_764_888_982_000_000  # 2025-12-04T22:56:22Z
OLD = {"client_id": "77.88", "mqtt_client_id": "m"}


@pytest.fixture
def config(tmp_path):
    return write(tmp_path / "agent.toml")


@pytest.fixture
def state(tmp_path):
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def write(path, toml=""):
    path.write_text(f'state_directory = "{path.parent}/state"\n{toml}')
    return path


def made(state, known=facts, *, at=MADE_US):
    return load_identity(state, wall_us=lambda: at, hardware=known)


def identity(config, *arguments, stdin=b""):
    return ga4_agent("identity", *arguments, "--config", str(config), stdin=stdin)


# -- show -------------------------------------------------------------------------------------


def test_show_says_the_ids_since_when_and_whose_they_are(config, state):
    ids = made(state, dict)
    ended = identity(config, "show")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout == (
        f"client id    {ids.client_id}\n"
        "since        2025-12-04T22:56:22+00:00\n"
        "machine      not known: a copy of the card in another machine would not be noticed\n"
        f"broker's id  {ids.mqtt_client_id}\n"
    )


def test_show_as_json(config, state):
    (state / FILE_NAME).write_text(json.dumps(OLD))
    assert json.loads(identity(config, "show", "--json").stdout) == {
        "client_id": "77.88",
        "since": None,
        "machine": "unknown",
        "mqtt_client_id": "m",
    }


@pytest.mark.skipif(not facts(), reason="found nothing on this machine that tells it from another")
@pytest.mark.parametrize("other", [False, True])
def test_show_tells_this_machine_from_another(config, state, other):
    made(state, lambda: {name: f"{fact}{other}" if other else fact for name, fact in facts().items()})  # fmt: skip
    shown = json.loads(identity(config, "show", "--json").stdout)
    assert shown["machine"] == ("another" if other else "this")
    said = identity(config, "show").stdout
    assert ("ids of its own when it starts" if other else "machine      this one\n") in said


@pytest.mark.parametrize("at", [0, 10**30, -(10**30)])
def test_a_time_by_a_clock_that_was_not_set_is_not_shown(config, state, at):
    made(state, at=at)
    assert json.loads(identity(config, "show", "--json").stdout)["since"] is None
    assert "since        not known: the clock was not set\n" in identity(config, "show").stdout


def test_a_look_changes_nothing(config, state):
    (state / FILE_NAME).write_text(json.dumps(OLD))
    identity(config, "show")
    assert [path.name for path in state.iterdir()] == [FILE_NAME]
    assert json.loads((state / FILE_NAME).read_text()) == OLD


def test_where_there_is_none_or_a_damaged_one_it_says_what_will_be(config, state):
    ended = identity(config, "show")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"cannot show the id: found no {state}/identity.json; the agent makes it when it starts\n"
    )
    (state / FILE_NAME).write_text("{ 77.88")
    ended = identity(config, "show")
    assert ended.exit_code == 1
    assert "identity.json is damaged; the agent makes new ids at its next start" in ended.stderr
    assert "77.88" not in ended.output


@pytest.mark.parametrize(
    ("toml", "note"),
    [
        ('client_id = "11.22"', "but events carry the client_id that [device]"),
        ('visitor = "sitting"', 'but with visitor = "sitting" each visitor'),
    ],
)
@pytest.mark.parametrize("command", [["show"], ["reset", "--yes"]])
def test_where_events_carry_other_ids_it_says_so_without_naming_them(
    config, state, toml, note, command
):
    made(state)
    write(config, f"[device]\n{toml}\n")
    ended = identity(config, *command)
    assert ended.exit_code == 0
    assert ended.stderr.startswith(note)
    assert "11.22" not in ended.output


# -- reset ------------------------------------------------------------------------------------


def test_without_a_daemon_the_command_resets_it_itself(config, state):
    before = made(state)
    ended = identity(config, "reset", "--yes")
    after = made(state)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout == (
        f"the client id is {after.client_id} now; events that wait keep the old one\n"
    )
    assert after.client_id != before.client_id
    assert after.mqtt_client_id == before.mqtt_client_id


def test_a_daemon_does_it_itself(config, state):
    before = made(state)
    with daemon(state, reset_identity=lambda: {"client_id": "12.34"}):
        ended = identity(config, "reset", "--yes")
    assert (ended.exit_code, ended.stdout.split(";")[0]) == (0, "the client id is 12.34 now")
    assert made(state) == before, "the file is the daemon's"


def test_a_daemon_that_cannot_says_why(config, state):
    def refuse():
        raise ControlError("cannot write the id: No space left on device")

    with daemon(state, reset_identity=refuse):
        ended = identity(config, "reset", "--yes")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == "cannot write the id: No space left on device\n"


def test_while_another_command_has_the_state_nothing_is_reset(config, state):
    before, lock = made(state), StateLock.take(state)
    try:
        ended = identity(config, "reset", "--yes")
    finally:
        lock.release()
    assert ended.exit_code == 1
    assert "another ga4-agent works on it; stop that one first" in ended.stderr
    assert made(state) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work as another user")
def test_what_root_resets_belongs_to_the_services_user(config, state):
    made(state)
    for path in (state, *state.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    assert identity(config, "reset", "--yes").exit_code == 0
    assert {path.stat().st_uid for path in state.iterdir()} == {NOBODY}


def test_without_a_terminal_and_yes_nothing_is_reset(config, state):
    before = made(state)
    ended = identity(config, "reset", stdin=b"y\n")
    assert ended.exit_code == 2
    assert "say --yes if you are sure" in ended.stderr
    assert made(state) == before


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1), (b"\x04", 130)])
def test_it_asks_first(config, state, typed, code):
    before = made(state)
    person, terminal = pty.openpty()
    os.write(person, typed)
    command = [sys.executable, "-m", "agent", "identity", "reset", "--config", str(config)]
    ended = subprocess.run(
        command, cwd=ROOT, stdin=terminal, capture_output=True, timeout=PATIENCE, check=False
    )
    os.close(terminal)
    os.close(person)
    assert ended.returncode == code, ended
    assert b"Make a new client id?" in ended.stdout
    assert (made(state) != before) == (code == 0)
    assert (b"the id stays as it was" in ended.stderr) == (code != 0)


def test_before_the_first_start_there_is_nothing_to_reset(config):
    ended = identity(config, "reset", "--yes")
    assert ended.exit_code == 1
    assert "cannot reset the id: found no " in ended.stderr


# -- clean ------------------------------------------------------------------------------------


def test_clean_leaves_nothing_for_an_image(config, state):
    made(state)
    ended = identity(config, "clean")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout == "the ids are removed: take the image before the agent starts again\n"
    assert not (state / FILE_NAME).exists()


def test_cleaning_what_is_clean_is_done_too(config, tmp_path):
    for _ in range(2):
        ended = identity(config, "clean")
        assert (ended.exit_code, ended.stdout.split(":")[0]) == (0, "there are no ids")
        (tmp_path / "state").mkdir(exist_ok=True)


def test_while_the_daemon_runs_the_ids_stay(config, state):
    before, lock = made(state), StateLock.take(state)  # it holds the lock
    try:
        ended = identity(config, "clean")
    finally:
        lock.release()
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "stop that one first (systemctl stop ga4-agent)" in ended.stderr
    assert made(state) == before


def test_events_that_would_be_in_the_image_are_named(config, state, make_event):
    queue = EventQueue.open(state, max_bytes=2**23)
    queue.put_many([make_event("vend"), make_event("tap")])
    queue.close()
    ended = identity(config, "clean")
    assert ended.exit_code == 0
    assert ended.stderr.startswith("but 2 events in the queue would be in the image, too")
