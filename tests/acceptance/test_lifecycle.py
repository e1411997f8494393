"""Start, stop, a second instance, a bug: the daemon ends as it should and says why."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.service import STOP_MARGIN
from tests.acceptance.daemon import ROOT, SECRET
from tests.acceptance.publishers import (
    HttpPrograms,
    deliveries,
    event,
    hand_in,
    ids_of,
    mqtt_program,
    post,
)

SICK_AGENT = str(ROOT / "tests" / "acceptance" / "sick_agent.py")
READ_DEADLINE, TIMEOUT = 2.0, 5.0  # seconds: what Setup configures
STOP_BOUND = READ_DEADLINE + TIMEOUT + 4 * STOP_MARGIN  # seconds: Service.stop


def test_sigterm_ends_with_0_and_loses_nothing_while_programs_post(
    make_daemon, mqtt_setup, broker, emulator
):
    daemon = make_daemon(mqtt_setup)
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    with (
        mqtt_program(broker.port) as program,
        HttpPrograms(port=mqtt_setup.http_port, threads=4) as programs,
    ):
        programs.wait_acknowledged(50)
        program.publish(range(-500, 0))
        assert daemon.end(timeout=STOP_BOUND) == 0
        program.wait_acknowledged(500)
    assert "did not stop in time" not in daemon.log
    assert programs.refused == []
    daemon.start()
    expected = programs.acknowledged | set(range(-500, 0))
    daemon.wait(lambda _: expected <= set(ids_of(emulator.events())), flush=True)
    books = daemon.drained()
    # Nothing was in the air when it ended, so that both sides agree exactly.
    assert books.received == books.sent == emulator.stats()["counted_events"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_ends_with_0(make_daemon, setup, number):
    daemon = make_daemon(setup)
    daemon.start()
    daemon.signal(number)
    assert daemon.exit_status() == 0
    assert not (setup.state / "control.sock").exists()


def test_a_second_instance_on_the_same_state_is_turned_away(make_daemon, setup):
    first, second = make_daemon(setup), make_daemon(setup)
    first.start()
    second.spawn()
    assert second.exit_status() == 1
    assert "another ga4-agent works on it; stop that one first" in second.log
    assert str(setup.state) in second.log
    assert first.status()["running"]


def test_a_bug_in_a_thread_ends_the_process_and_names_the_place(make_daemon, setup):
    """Its message is not said: it may hold a secret, and here it does (Daemon.check)."""
    daemon = make_daemon(setup)
    daemon.program = (sys.executable, SICK_AGENT, "bug")
    daemon.bugs_expected = True
    daemon.start()
    hand_in(setup.http_port, [1])
    assert daemon.exit_status() == 1
    (line,) = [line for line in daemon.log.splitlines() if "a bug ends the agent" in line]
    assert "KeyError at sick_agent.py:" in line
    assert "broken_triage < shipper.py:" in line
    daemon.kill()
    assert daemon.books().queued == 1


def status_command(daemon) -> dict:
    done = daemon.command("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_status_works_while_it_runs_after_a_stop_and_after_a_kill(make_daemon, setup, emulator):
    emulator.stop()
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, range(7))
    running = status_command(daemon)
    assert running["running"]
    assert daemon.end() == 0
    stopped = status_command(daemon)
    assert (stopped["running"], stopped["state"]) == (False, "stopped")
    daemon.start()
    hand_in(setup.http_port, range(7, 10))
    daemon.kill()
    killed = status_command(daemon)
    assert (killed["running"], killed["state"]) == (False, "stopped")
    assert [seen["queue"]["events"] for seen in (running, stopped, killed)] == [7, 7, 10]
    for seen in (running, stopped, killed):
        assert seen["ledger"]["balanced"]
        assert seen["queue"]["oldest_age_s"] >= 0


def test_the_secret_is_nowhere(make_daemon, setup, emulator, tmp_path):
    """Not in any output, not in the state directory, not in the process list."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    daemon = make_daemon(replace(setup, stream=f'api_secret_file = "{file}"'))
    del daemon.environ["GA4_API_SECRET"]
    daemon.start()
    hand_in(setup.http_port, [1])
    assert emulator.wait_for(lambda: deliveries(emulator), 10)
    assert deliveries(emulator)[0].query["api_secret_present"], "it is in use"
    emulator.stop()  # so that errors are logged, and events stay
    query = f"/mp/collect?measurement_id={setup.measurement_id}&api_secret={SECRET}"
    assert post(setup.http_port, query, {"client_id": "1.2", "events": [event(2)]}) == 204
    daemon.wait(lambda status: status["state"] == "offline")
    for said in (status_command(daemon), daemon.command("check").stdout, daemon.status()):
        assert SECRET not in str(said)
    for name in ("cmdline", "comm", "status"):
        assert SECRET.encode() not in Path(f"/proc/{daemon.pid}/{name}").read_bytes()
    daemon.end()
    files = [path for path in setup.state.rglob("*") if path.is_file()]
    assert setup.state / "queue.db" in files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
