"""The device's id with the real daemon: in a copy of the card, reset while it runs, cleaned."""

import json

import pytest

from agent.hardware import facts


@pytest.fixture
def daemon(make_daemon, setup):
    return make_daemon(setup)


def identity(daemon):
    return json.loads((daemon.setup.state / "identity.json").read_bytes())


def move_to_another_machine(daemon):
    """As the state looks to another machine: none of the facts has the hash it had."""
    stored = identity(daemon)
    stored["marks"] = dict.fromkeys(stored["marks"], "0" * 32)
    (daemon.setup.state / "identity.json").write_text(json.dumps(stored))


def senders(emulator):
    """Which client ids each event arrived with, by its name."""
    bodies = [request.body for request in emulator.requests() if request.counted]
    return {event["name"]: body["client_id"] for body in bodies for event in body["events"]}


@pytest.mark.skipif(not facts(), reason="found nothing on this machine that tells it from another")
def test_a_copy_in_another_machine_has_ids_of_its_own_and_delivers_what_waits(daemon, emulator):
    daemon.start()
    daemon.ask("pause")
    assert daemon.command("send", "before").returncode == 0
    daemon.end()
    assert daemon.books().queued == 1
    first = identity(daemon)
    move_to_another_machine(daemon)
    daemon.start()
    second = identity(daemon)
    assert second["client_id"] != first["client_id"]
    assert second["mqtt_client_id"] != first["mqtt_client_id"]
    assert daemon.command("send", "after").returncode == 0
    assert daemon.drained().sent == 2
    assert senders(emulator) == {"before": first["client_id"], "after": second["client_id"]}
    said = [line for line in daemon.log.splitlines() if "another machine" in line]
    assert len(said) == 1
    assert not any(text in daemon.log for text in (first["client_id"], second["client_id"]))
    daemon.end()
    daemon.start()
    assert identity(daemon) == second, "from now on this is its machine"


def test_a_reset_holds_at_once_and_what_waits_keeps_the_old_id(daemon, emulator):
    daemon.start()
    daemon.ask("pause")
    first = identity(daemon)
    assert daemon.command("send", "before").returncode == 0
    done = daemon.command("identity", "reset", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    second = identity(daemon)
    assert second["client_id"] in done.stdout
    assert second["client_id"] != first["client_id"]
    assert second["mqtt_client_id"] == first["mqtt_client_id"]
    assert daemon.command("send", "after").returncode == 0
    daemon.ask("resume")
    daemon.drained()
    assert senders(emulator) == {"before": first["client_id"], "after": second["client_id"]}
    daemon.kill()
    daemon.start()
    assert identity(daemon) == second, "it survives a kill"


def test_the_id_is_shown_whether_the_daemon_runs_or_not(daemon):
    assert daemon.command("identity", "show").returncode == 1
    daemon.start()
    running = daemon.command("identity", "show", "--json")
    daemon.end()
    stopped = daemon.command("identity", "show", "--json")
    assert running.stdout == stopped.stdout
    assert json.loads(running.stdout)["client_id"] == identity(daemon)["client_id"]


def test_the_ids_are_cleaned_only_while_the_daemon_is_stopped(daemon):
    daemon.start()
    first = identity(daemon)
    refused = daemon.command("identity", "clean")
    assert refused.returncode == 1
    assert "stop that one first (systemctl stop ga4-agent)" in refused.stderr
    assert identity(daemon) == first
    daemon.end()
    assert daemon.command("identity", "clean").returncode == 0
    assert not (daemon.setup.state / "identity.json").exists()
    daemon.start()
    assert identity(daemon)["client_id"] != first["client_id"]
