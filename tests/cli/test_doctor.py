"""`doctor` finds faults that are really there: each is made, and found, with its cure."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from agent.clock import Clock
from agent.delivery.outlet import OutletReport
from agent.emulator import Emulator, Fault
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.ledger import Books
from agent.status import Observation, status_of
from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon
from tests.fake_clock import FakeClock
from tests.waiting import free_port

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-0815"
DAY_S = 86_400
NOTHING_YET = OutletReport("main", "ok", "", 0.0, None)
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


class Box:
    """A device on which all is well, until a test changes something."""

    def __init__(self, directory, endpoint):
        self.directory = directory
        self.state = directory / "state"
        self.state.mkdir()
        self.config = directory / "agent.toml"
        self.secret = directory / "credentials/main"
        self.secret.parent.mkdir()
        self.secret.write_text(SECRET)
        self.secret.chmod(0o640)
        self.fill()
        self.write(endpoint)

    def fill(self):
        EventQueue.open(self.state, max_bytes=2**26).close()

    def write(self, endpoint, stream="", more=""):
        self.config.write_text(
            f'state_directory = "{self.state}"\nvolatile = true\n{more}\n'
            f'[stream.main]\nmeasurement_id = "G-ABCDE12345"\nendpoint = "{endpoint}"\n{stream}\n'
        )

    def doctor(self, *options):
        """Exit status and lines by subject; nobody may learn the secret from them."""
        ended = ga4_agent("doctor", "--json", "--config", str(self.config), *options)
        assert SECRET not in ended.output
        assert ended.stderr == ""
        return ended.exit_code, self.lines(ended.stdout)

    def run(self, environ):
        """The same, in a process of its own."""
        command = [sys.executable, "-m", "agent", "doctor", "--json", "--config", str(self.config)]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stderr == ""
        return done.returncode, self.lines(done.stdout)

    @staticmethod
    def lines(text):
        found = {}
        for each in json.loads(text)["findings"]:
            line = (each["verdict"], f"{each['found']} - {each['cure']}")
            found.setdefault(each["subject"], []).append(line)
        return {subject: lines[0] if len(lines) == 1 else lines for subject, lines in found.items()}


@pytest.fixture
def emulator():
    with Emulator() as emulator:
        yield emulator
    assert emulator.bugs == ()


@pytest.fixture
def box(tmp_path, emulator, monkeypatch):
    for name in ("GA4_API_SECRET", "CREDENTIALS_DIRECTORY", "GA4_AGENT_CONFIG", "GA4_ID_SALT"):
        monkeypatch.delenv(name, raising=False)
    return Box(tmp_path, emulator.url)


def status(**seen):
    """What a daemon says of itself."""
    usual = dict(books=Books(), used_bytes=0, max_bytes=None, oldest_us=None)
    usual["outlets"] = (OutletReport("main", "ok", "", 0.0, 1.0),)
    return status_of(Observation(**(usual | seen)), Clock()).document


@pytest.fixture
def well(box):
    """The box with a daemon that runs."""
    with daemon(box.state, status=status):
        yield box


def verdicts(lines):
    return {subject: line[0] for subject, line in lines.items()}


def test_where_all_is_well_nothing_is_found(well, emulator):
    ended, lines = well.doctor()
    assert verdicts(lines) == dict.fromkeys(
        ["configuration", "secret main", "clock", "endpoint main", "daemon", "queue"], "ok"
    ), lines
    assert ended == 0
    assert "whether it is right cannot be seen" in lines["secret main"][1]
    assert (emulator.attempts, emulator.events()) == (1, ()), "no event was sent"


def test_people_read_a_line_for_each_subject_with_what_to_do(box):
    ended = ga4_agent("doctor", "--config", str(box.config))
    lines = ended.stdout.splitlines()
    assert ended.exit_code == 1
    assert [line.split("  ")[0] for line in lines] == [
        "configuration", "secret main", "clock", "endpoint main", "daemon", "queue",
    ]  # fmt: skip
    [found] = [line for line in lines if "TROUBLE" in line]
    assert found.startswith("daemon         TROUBLE   cannot reach the daemon in ")
    assert " - systemctl start ga4-agent; " in found


# -- configuration ------------------------------------------------------------------------------


def test_a_broken_configuration_is_found_and_so_is_what_can_be_seen_without(box):
    box.config.write_text(f'state_directory = "{box.state}"\n[stream.main\n')
    ended, lines = box.doctor()
    assert (ended, lines["configuration"][0]) == (1, "trouble")
    assert str(box.config) in lines["configuration"][1]
    assert lines["queue"][0] == "ok"
    assert "endpoint main" not in lines


def test_behind_a_broken_configuration_the_last_good_one_is_looked_at(box, emulator):
    shutil.copy(box.config, box.state / "last-good.toml")
    box.write(emulator.url, stream="api_secrt_file = 1\n")
    ended, lines = box.doctor()
    assert (ended, lines["configuration"][0]) == (1, "trouble")
    assert "api_secrt_file" in lines["configuration"][1]
    assert "the last one that worked is used" in lines["configuration"][1]
    assert lines["endpoint main"][0] == "ok"


def test_a_configuration_that_was_named_and_is_not_there_leads_nowhere_else(box):
    box.config.unlink()
    ended, lines = box.doctor()
    assert (ended, list(lines)) == (1, ["configuration"])
    assert "found no such file" in lines["configuration"][1]


def test_an_id_of_an_example_and_a_missing_certificate_are_found_as_check_finds_them(box):
    box.write("https://127.0.0.1:1", more=f'[network]\nca_file = "{box.directory}/none.pem"')
    box.config.write_text(box.config.read_text().replace("G-ABCDE12345", "G-XXXXXXXXXX"))
    ended, lines = box.doctor()
    said = [line for _, line in lines["configuration"]]
    assert ended == 1
    assert ["example's G-XXXXXXXXXX" in said[0], "none.pem" in said[1]] == [True, True]
    assert "ca_file" in lines["endpoint main"][1]


# -- secrets ------------------------------------------------------------------------------------


def test_a_missing_secret_is_found(well):
    well.secret.unlink()
    outlet = OutletReport("main", "unconfigured", "there is no api_secret; run: x", 0.0, None)
    well.state.rename(well.directory / "elsewhere")
    well.state.mkdir()
    well.fill()
    with daemon(well.state, status=lambda: status(outlets=(outlet,))):
        ended, lines = well.doctor()
    assert ended == 1
    assert lines["secret main"] == ("trouble", "there is none - run: ga4-agent secret set main")
    assert lines["daemon"][0] == "trouble"


def test_a_secret_that_the_daemon_has_not_read_yet_wants_a_restart(box):
    outlet = OutletReport("main", "unconfigured", "there is no api_secret; run: x", 0.0, None)
    with daemon(box.state, status=lambda: status(outlets=(outlet,))):
        _, lines = box.doctor()
    assert lines["secret main"][0] == "trouble"
    assert "run: systemctl restart ga4-agent" in lines["secret main"][1]


@pytest.mark.parametrize("configured", [False, True])
def test_a_secret_that_everybody_can_read_is_found(well, emulator, configured):
    if configured:
        well.write(emulator.url, stream=f'api_secret_file = "{well.secret}"')
    well.secret.chmod(0o644)
    ended, lines = well.doctor()
    assert (ended, lines["secret main"][0]) == (1, "trouble")
    assert f"run: chmod o-rwx {well.secret}" in lines["secret main"][1]


def test_a_secret_of_the_environment_is_one(well, monkeypatch):
    well.secret.unlink()
    monkeypatch.setenv("GA4_API_SECRET", SECRET)
    ended, lines = well.doctor()
    assert (ended, lines["secret main"][0]) == (0, "ok")
    assert "from the environment variable GA4_API_SECRET" in lines["secret main"][1]


@pytest.fixture
def open_box(emulator, box):
    """A box in a folder that every user can pass through."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Box(Path(folder), emulator.url)


@as_root
def test_root_reads_a_secret_file_as_the_service_would(open_box, emulator):
    secret = open_box.directory / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    open_box.write(emulator.url, stream=f'api_secret_file = "{secret}"')
    _, lines = open_box.doctor()
    assert lines["secret main"][0] == "ok"
    for path in (open_box.state, *open_box.state.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    ended, lines = open_box.doctor()
    assert (ended, lines["secret main"][0]) == (1, "trouble")
    assert "no permission to read it" in lines["secret main"][1]


@contextmanager
def another_user():
    """For a while; real ids stay, so that the way back is open."""
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


@as_root
def test_another_user_is_told_what_only_root_can_see(open_box):
    open_box.state.chmod(0o750)
    open_box.doctor()  # root's Python may lie where another user cannot import from it
    with another_user():
        ended, lines = open_box.doctor()
    unseen = {subject for subject, line in lines.items() if line[0] == "unseen"}
    assert (ended, unseen) == (2, {"secret main", "daemon", "queue"})
    assert all("run this as root" in lines[subject][1] for subject in unseen)
    assert verdicts(lines)["endpoint main"] == "ok", "that needs no secret"


@as_root
def test_a_configuration_that_another_user_may_not_read_is_no_broken_one(open_box):
    open_box.config.chmod(0o600)
    open_box.doctor()
    with another_user():
        ended, lines = open_box.doctor()
    assert (ended, lines) == (
        2, {"configuration": ("unseen", f"{open_box.config}: you may not read it - run this as root")}
    )  # fmt: skip


# -- clock and TLS ------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path):
    """A certificate of yesterday, and the file of its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    begin = datetime.now(UTC) - timedelta(days=1)
    authority.issue_cert(
        "127.0.0.1", not_before=begin, not_after=begin + timedelta(days=10)
    ).configure_cert(context)
    return context


@pytest.fixture
def fake_clock(tmp_path):
    return FakeClock(tmp_path)


def trusting(box, emulator, authority="authority.pem"):
    box.write(emulator.url, more=f'[network]\nca_file = "{box.directory / authority}"')


def test_a_clock_that_precedes_the_certificate_is_named_with_its_cure(well, tls, fake_clock):
    fake_clock.jump_to(1_000_000)
    with Emulator(tls=tls) as secure:
        trusting(well, secure)
        ended, lines = well.run(fake_clock.environ)
        attempts = secure.attempts
    assert (ended, attempts) == (1, 0)
    assert lines["clock"][0] == "trouble"
    assert lines["clock"][1] == (
        "clock_blocks_tls: it says 1970-01-12 13:46 UTC, before the beginning of the certificate "
        'that stream main meets - set it (date -s "YYYY-MM-DD HH:MM:SS"), let NTP through '
        "(UDP 123), or fit a clock battery"
    )
    assert lines["endpoint main"][0] == "trouble"
    assert "see the line clock" in lines["endpoint main"][1]
    fake_clock.set_offset(0)
    with Emulator(tls=tls) as secure:
        trusting(well, secure)
        ended, lines = well.run(fake_clock.environ)
    assert (ended, lines["clock"][0], lines["endpoint main"][0]) == (0, "ok", "ok")


@pytest.mark.parametrize(
    ("offset_s", "said"), [(-2 * 3600, "behind the endpoint"), (3 * DAY_S, "ahead of the endpoint")]
)
def test_a_clock_that_differs_from_the_endpoints_is_found(well, fake_clock, offset_s, said):
    fake_clock.set_offset(offset_s)
    ended, lines = well.run(fake_clock.environ)
    assert (ended, lines["clock"][0]) == (1, "trouble")
    assert said in lines["clock"][1]


def test_a_clock_that_ntp_sets_is_right(well, fake_clock):
    fake_clock.synchronise()
    ended, lines = well.run(fake_clock.environ)
    assert (ended, lines["clock"][0]) == (0, "ok")
    assert "set by NTP, as the endpoint does" in lines["clock"][1]


def test_without_ntp_and_without_an_answer_nobody_knows_the_time(box, fake_clock):
    box.write(f"http://127.0.0.1:{free_port()}")
    _, lines = box.run(fake_clock.environ)
    assert lines["clock"][0] == "trouble"
    assert "timedatectl set-ntp true" in lines["clock"][1]


# -- the endpoint -------------------------------------------------------------------------------


def test_a_port_that_refuses_is_found(well):
    well.write(f"http://127.0.0.1:{free_port()}")
    ended, lines = well.doctor()
    assert (ended, lines["endpoint main"][0]) == (1, "trouble")
    assert "connection refused - check network and firewall" in lines["endpoint main"][1]


def test_an_address_at_which_nobody_takes_events_is_found(box, emulator):
    """The daemon's status is that of its start: it has delivered nothing yet."""
    with daemon(box.state, status=lambda: status(outlets=(NOTHING_YET,))):
        assert box.doctor()[1]["endpoint main"][0] == "ok"
        emulator.fail(Fault("status", status=404))
        ended, lines = box.doctor()
    assert (ended, lines["endpoint main"][0]) == (1, "trouble")
    assert (
        "answers 404, which GA4 would not - check [stream.main] endpoint"
        in (lines["endpoint main"][1])
    )


def test_an_own_container_without_a_debug_path_is_right_when_it_takes_events(well, emulator):
    emulator.fail(Fault("status", status=404))
    assert well.doctor()[1]["endpoint main"][0] == "ok"


def test_a_stream_that_the_daemon_calls_misconfigured_is_not_called_right(box):
    refused = OutletReport("main", "misconfigured", "found 404, expected 204; check it", 9.0, None)
    with daemon(box.state, status=lambda: status(outlets=(refused,))):
        ended, lines = box.doctor()
    assert (ended, lines["endpoint main"][0]) == (1, "trouble")
    assert "does not take the daemon's events: found 404" in lines["endpoint main"][1]


@pytest.mark.parametrize("kind", ["login_page", "redirect"])
def test_a_login_page_in_between_is_found(well, emulator, kind):
    emulator.fail(Fault(kind))
    ended, lines = well.doctor()
    assert (ended, lines["endpoint main"][0]) == (1, "trouble")
    assert lines["endpoint main"][1].startswith("login_page: ")


def test_a_certificate_of_a_stranger_is_found_and_is_not_the_clocks_fault(well, tls, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with Emulator(tls=tls) as secure:
        trusting(well, secure, "other.pem")
        ended, lines = well.doctor()
    assert (ended, lines["endpoint main"][0]) == (1, "trouble")
    assert "cannot trust 127.0.0.1" in lines["endpoint main"][1]
    assert "clock_blocks_tls" not in lines["clock"][1]


def test_a_name_that_nobody_knows_is_found(well):
    """By the library alone: ``.invalid`` has no addresses (RFC 6761)."""
    well.write("https://ga4.invalid")
    ended, lines = well.doctor()
    assert (ended, lines["endpoint main"][0]) == (1, "trouble")
    assert "cannot find the address of ga4.invalid" in lines["endpoint main"][1]


def test_an_endpoint_that_never_answers_is_given_up(well, emulator):
    emulator.fail(Fault("hang"))
    well.write(emulator.url, more='[delivery]\ntimeout = "1 s"')
    begin = time.monotonic()
    _, lines = well.doctor()
    assert time.monotonic() - begin < 10
    assert "no complete answer within 1 s" in lines["endpoint main"][1]


def test_streams_that_share_an_endpoint_ask_it_once(well, emulator):
    more = f'[stream.till]\nmeasurement_id = "G-TILL000001"\nendpoint = "{emulator.url}"'
    well.write(emulator.url, stream=more)
    _, lines = well.doctor()
    assert lines["endpoint main, till"][0] == "ok"
    assert lines["secret till"][0] == "trouble"
    assert emulator.attempts == 1


# -- daemon and queue ---------------------------------------------------------------------------


def test_a_daemon_that_does_not_run_is_found(box):
    ended, lines = box.doctor()
    assert (ended, lines["daemon"][0]) == (1, "trouble")
    assert "it is not running - systemctl start ga4-agent" in lines["daemon"][1]


def test_what_the_daemon_says_of_itself_is_found(box):
    with daemon(box.state, status=lambda: status(paused=True)):
        ended, lines = box.doctor()
    assert (ended, lines["daemon"][0]) == (1, "trouble")
    assert "it runs, but is paused" in lines["daemon"][1]


def test_a_daemon_that_answers_nonsense_is_found(box):
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(str(box.state / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=answer_nonsense, args=(listener,))
        thread.start()
        ended, lines = box.doctor()
        thread.join()
    assert (ended, lines["daemon"][0]) == (1, "trouble")
    assert "cannot ask it" in lines["daemon"][1]


def answer_nonsense(listener):
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"nonsense\n")


def test_a_queue_that_is_not_there_is_found(well):
    (well.state / FILE_NAME).unlink()
    ended, lines = well.doctor()
    assert (ended, lines["queue"][0]) == (1, "trouble")


def test_a_queue_that_is_damaged_is_found(well):
    (well.state / FILE_NAME).write_bytes(b"no database at all" * 1000)
    ended, lines = well.doctor()
    assert (ended, lines["queue"][0]) == (1, "trouble")
    assert "the file is damaged" in lines["queue"][1]
