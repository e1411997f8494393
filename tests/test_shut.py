"""A state directory that cannot be used: the agent waits for it, and says so."""

import signal
import socket
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from tests.acceptance.conftest import emulator, make_daemon, setup
from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import hand_in, ids_of
from tests.asking import ask, at_rest, refuses_with_the_truth, wait_state

__all__ = ["emulator", "make_daemon", "setup"]

IMPATIENT = (sys.executable, str(ROOT / "tests" / "impatient_agent.py"))


@pytest.fixture
def in_the_way(setup):
    """A file where the state directory should be."""
    setup.state.write_text("not a directory")
    return setup.state


@pytest.fixture
def daemon(make_daemon, setup):
    made = make_daemon(setup)
    made.program = IMPATIENT
    return made


def test_it_answers_503_and_the_truth_and_no_figures_it_does_not_know(daemon, in_the_way):
    daemon.spawn()
    seen = refuses_with_the_truth(daemon, "read_only")
    assert str(in_the_way) in seen["reason"]
    assert "nothing is taken or sent until" in seen["reason"]
    assert set(seen["queue"].values()) == set(seen["ledger"].values()) == {None}


def test_what_needs_no_store_still_works(daemon, in_the_way, setup):
    daemon.spawn()
    wait_state(daemon, "read_only")
    body = {"client_id": "1.1", "events": [{"name": "1tap"}]}
    answer = ask(setup.http_port, "POST", "/debug/mp/collect", body)
    assert answer.status == 200
    assert answer.document["validationMessages"]


def test_it_rests_while_it_waits(daemon, in_the_way):
    daemon.spawn()
    wait_state(daemon, "read_only")
    with at_rest(daemon, lines=0):
        pass
    assert daemon.log.count("read_only: ") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(daemon, in_the_way, number):
    daemon.spawn()
    wait_state(daemon, "read_only")
    daemon.signal(number)
    assert daemon.exit_status() == 0


def test_the_same_process_goes_on_by_itself_when_the_directory_is_there(
    daemon, in_the_way, setup, emulator
):
    daemon.spawn()
    wait_state(daemon, "read_only")
    pid = daemon.pid
    in_the_way.unlink()
    wait_state(daemon, "ok")
    hand_in(setup.http_port, [1, 2])
    daemon.drained()
    assert sorted(ids_of(emulator.events())) == [1, 2]
    assert daemon.pid == pid
    assert "cannot listen" not in daemon.log
    assert daemon.end() == 0


def test_reading_the_configuration_again_can_name_another_directory(
    daemon, in_the_way, setup, tmp_path
):
    daemon.spawn()
    wait_state(daemon, "read_only")
    daemon.write("state_directory = 5")
    daemon.signal(signal.SIGHUP)
    daemon.wait_logged("state_directory: found 5")
    assert wait_state(daemon, "read_only")
    daemon.setup = replace(setup, state=tmp_path / "another")
    daemon.write(daemon.setup.toml())
    daemon.signal(signal.SIGHUP)
    wait_state(daemon, "ok")
    assert (tmp_path / "another" / "queue.db").exists()


def test_another_agent_on_the_directory_is_no_reason_to_wait(make_daemon, setup):
    first, second = make_daemon(setup), make_daemon(setup)
    first.start()
    second.program = IMPATIENT
    second.spawn()
    assert second.exit_status() == 1
    assert "another ga4-agent works on it" in second.log


def test_an_identity_that_cannot_be_read_is_not_made_anew(daemon, setup):
    daemon.start()
    identity = setup.state / "identity.json"
    made = identity.read_bytes()
    assert daemon.end() == 0
    identity.rename(setup.state / "kept")
    identity.mkdir()  # reading it fails, whoever asks
    daemon.spawn()
    seen = refuses_with_the_truth(daemon, "read_only")
    assert "identity.json" in seen["reason"]
    identity.rmdir()
    (setup.state / "kept").rename(identity)
    wait_state(daemon, "ok")
    assert identity.read_bytes() == made


def test_deaths_are_not_counted_while_it_waits(daemon, setup):
    """Each attempt would look like a run that died, and the agent would go step by step."""
    daemon.start()
    assert daemon.end() == 0
    queue = setup.state / "queue.db"
    queue.rename(setup.state / "kept")
    queue.mkdir()
    daemon.spawn()
    wait_state(daemon, "read_only")
    with at_rest(daemon, lines=0):  # several attempts
        pass
    run = (setup.state / "run.json").read_text()
    assert '"running": false' in run
    queue.rmdir()
    (setup.state / "kept").rename(queue)
    wait_state(daemon, "ok")


def test_systemd_hears_that_it_is_ready_why_it_waits_and_that_it_lives(
    daemon, in_the_way, tmp_path
):
    path = tmp_path / "notify"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as heard:
        heard.bind(str(path))
        heard.settimeout(20)
        daemon.environ |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"}
        daemon.spawn()
        said = heard.recv(4096).decode()
        while "READY=1" not in said:
            said = heard.recv(4096).decode()
        assert "STATUS=read_only cannot use" in said
        while "WATCHDOG=1" not in said:
            said = heard.recv(4096).decode()
        in_the_way.unlink()
        while "STATUS=ok" not in said:
            said = heard.recv(4096).decode()
