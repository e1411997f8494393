"""Looking and mending beside the real daemon: export, purge, requeue, drain, pause, kill -9."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import requests

from agent.control import ask
from agent.emulator import Fault
from agent.event import Event, Sender, Stamp
from agent.ga4.request import encode
from agent.jsontext import canonical
from agent.queue.event_queue import EventQueue
from agent.queue.pages import Selection
from agent.queue.reader import reading
from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import DATE_ERROR_US, deliveries, hand_in, ids_of, post
from tests.waiting import until

CAP = 64 * 1024 * 1024
OLD = Stamp(wall_us=int(time.time() * 1e6) - 3_600_000_000, boot_us=5, boot_id="old", trusted=True)


def done(daemon, *arguments, status=0):
    """Run a command; what it said."""
    result = daemon.command(*arguments)
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def filled(state, number, **fields):
    """A state directory with events in its queue, before any daemon has started on it."""
    state.mkdir(parents=True, exist_ok=True)
    queue = EventQueue.open(state, max_bytes=CAP)
    for first in range(0, number, 500):
        queue.put_many(
            [
                Event(
                    name="tap",
                    stream="main",
                    sender=Sender(client_id="1.1"),
                    stamp=OLD,
                    event_id=f"{i:016x}",
                    params={"id": i},
                    **fields,
                )
                for i in range(first, min(first + 500, number))
            ]
        )
    return queue


def waiting(state):
    """What waits, whole."""
    with reading(state) as reader:
        return [row.item for row in reader.rows(Selection())]


def told(emulator):
    """What the local GA4 was told: each event, and whose it is."""
    for request in deliveries(emulator):
        sender = {name: value for name, value in request.body.items() if name != "events"}
        yield from ((event, sender) for event in request.events)


def timeless(event, sender):
    """An event and whose it is, without what the right time decides when it leaves."""
    params = {name: v for name, v in event["params"].items() if name != "session_id"}
    properties = {name: p["value"] for name, p in sender.get("user_properties", {}).items()}
    return canonical([event["name"], params, {**sender, "user_properties": properties}])


def hand_in_all_sorts(port):
    hand_in(port, range(40))
    body = {
        "client_id": "7.7",
        "user_id": "u",
        "user_properties": {"tier": {"value": "gold"}},
        "timestamp_micros": OLD.wall_us,
        "events": [{"name": "vend", "params": {"price": 2.5, "items": [{"n": "ä"}]}}],
    }
    assert post(port, "/mp/collect?measurement_id=G-ACCEPT0001", body) == 204


def test_export_purge_and_import_lead_to_the_same_delivery(make_daemon, setup, emulator, tmp_path):
    daemon = make_daemon(setup)
    daemon.start()
    done(daemon, "pause")
    hand_in_all_sorts(setup.http_port)
    before = waiting(setup.state)
    assert len(before) == 41
    output = tmp_path / "export.ndjson"
    done(daemon, "queue", "export", "--output", str(output))
    assert done(daemon, "queue", "purge", "--yes") == "purged 41 waiting events\n"
    output.rename(setup.state / "spool" / output.name)
    daemon.wait(lambda status: status["queue"]["events"] == 41)
    assert waiting(setup.state) == before
    done(daemon, "resume")
    books = daemon.drained()
    heard = list(told(emulator))
    times = {timeless(event, sender): event["timestamp_micros"] for event, sender in heard}
    expected = {timeless(encode(e), e.sender.body): e.stamp.wall_us for e in before}
    assert times.keys() == expected.keys()
    assert all(abs(times[key] - expected[key]) < DATE_ERROR_US for key in expected)
    # One sitting of the device, and none of a visitor whose id is somebody else's.
    assert len({e["params"]["session_id"] for e, _ in heard if e["name"] == "tap"}) == 1
    assert [e for e, _ in heard if e["name"] == "vend" and "session_id" in e["params"]] == []
    assert len(heard) == 41
    assert (books.received, books.sent, books.dropped) == (82, 41, {"purged": 41})


def test_dead_letters_that_were_exported_and_purged_come_back_by_the_spool(
    make_daemon, setup, emulator, tmp_path
):
    queue = filled(setup.state, 3)
    queue.bury([row.id for row in queue.lease("main", limit=3)], reason="refused 400")
    queue.close()
    daemon = make_daemon(setup)
    daemon.start()
    output = tmp_path / "dead.ndjson"
    done(daemon, "dead", "export", "--output", str(output))
    assert done(daemon, "dead", "purge", "--yes") == "purged 3 dead letters\n"
    output.rename(setup.state / "spool" / output.name)
    daemon.wait_received(6)
    books = daemon.drained()
    assert ids_of(emulator.events()) == [0, 1, 2]
    assert {event["timestamp_micros"] for event in emulator.events()} == {OLD.wall_us}
    assert (books.sent, books.dead) == (3, 0)


def test_requeued_letters_are_delivered_once(make_daemon, setup, emulator):
    queue = filled(setup.state, 60)
    queue.bury([row.id for row in queue.lease("main", limit=60)], reason="refused 400")
    queue.close()
    daemon = make_daemon(setup)
    daemon.start()
    assert done(daemon, "dead", "requeue", "--reason", "another") == (
        "found no dead letter that died of another; there are: refused 400\n"
    )
    assert done(daemon, "dead", "requeue", "--reason", "refused 400") == "requeued 60 events\n"
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == list(range(60))
    assert (books.sent, books.dead) == (60, 0)


def test_a_purge_while_it_delivers_loses_nothing_that_is_under_way(make_daemon, setup, emulator):
    emulator.fail(Fault("delay", seconds=0.05))
    filled(setup.state, 3000).close()
    daemon = make_daemon(setup)
    daemon.start()
    daemon.wait(lambda status: status["ledger"]["sent"] >= 50)
    done(daemon, "queue", "purge", "--yes")
    books = daemon.drained()
    arrived = ids_of(emulator.events())
    assert len(arrived) == len(set(arrived)) == books.sent
    assert books.dropped == {"purged": 3000 - books.sent}
    assert books.dropped["purged"] > 0


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_long_purge_leaves_balanced_books(make_daemon, setup):
    setup = replace(setup, endpoint=None)
    number = 30_000
    filled(setup.state, number).close()
    daemon = make_daemon(setup)
    daemon.start()
    command = [sys.executable, "-m", "agent", "queue", "purge", "--yes"]
    with subprocess.Popen(
        [*command, "--config", str(daemon.config)],
        cwd=ROOT, env=daemon.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as purge:  # fmt: skip
        until(lambda: daemon.books().dropped.get("purged", 0) > 0, "the first step")
        daemon.kill()
        said = purge.stdout.read()
        assert purge.wait() == 1
    assert "cannot reach the daemon" in said or "the daemon gave no answer" in said
    books = daemon.books()
    assert books.balanced
    assert 0 < books.dropped["purged"] < number
    assert books.queued == number - books.dropped["purged"]
    with reading(setup.state) as reader:
        assert sum(1 for _ in reader.rows(Selection())) == books.queued
    rest = done(daemon, "queue", "purge", "--yes")
    assert rest == f"purged {books.queued:,} waiting events\n"
    daemon.start()
    assert daemon.books().dropped == {"purged": number}


# -- delivery by hand -----------------------------------------------------------------------


def test_pause_holds_events_back_and_resume_or_a_restart_lets_them_go(make_daemon, setup, emulator):
    daemon = make_daemon(setup)
    daemon.start()
    assert "a restart ends the pause" in done(daemon, "pause")
    hand_in(setup.http_port, range(5))
    assert daemon.status()["state"] == "paused"
    said = done(daemon, "flush", status=1)
    assert said == "delivery is paused: nothing leaves before ga4-agent resume\n"
    said = done(daemon, "drain", "--timeout", "1 h", status=1)
    assert said.startswith(
        "cannot empty the queue: 5 events left: paused - delivery was paused by hand"
    )
    assert not emulator.events()
    assert "5 events waiting" in done(daemon, "resume")
    daemon.drained()
    done(daemon, "pause")
    daemon.end()
    daemon.start()
    assert daemon.status()["state"] == "ok"


def test_flush_tries_at_once(make_daemon, setup, emulator):
    emulator.fail(Fault("status", status=404))  # a misconfiguration: tried hourly
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, range(5))
    daemon.wait(lambda status: status["state"] == "misconfigured")
    emulator.recover()
    assert done(daemon, "flush") == "trying now: 5 events waiting\n"
    daemon.wait(lambda status: status["queue"]["events"] == 0)


def test_drain_urges_the_daemon_on_until_its_queue_is_empty(make_daemon, setup, emulator):
    emulator.fail(Fault("status", status=404))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, range(5))
    daemon.wait(lambda status: status["state"] == "misconfigured")
    said = done(daemon, "drain", "--timeout", "500 ms", status=1)
    assert said.startswith("cannot empty the queue: 5 events left: misconfigured - stream main: ")
    emulator.recover()
    assert done(daemon, "drain") == "the queue is empty: delivered 5 events\n"
    assert sorted(ids_of(emulator.events())) == list(range(5))


def test_drain_waits_for_what_lies_in_the_spool_folder_of_a_running_daemon(
    make_daemon, setup, emulator
):
    daemon = make_daemon(setup)
    daemon.start()
    spool = setup.state / "spool"
    until(spool.exists, "the spool folder")
    (spool / ".new").write_text('{"name": "tap", "params": {"id": 1}}')  # without an end of line
    (spool / ".new").rename(spool / "a.ndjson")
    assert done(daemon, "drain").startswith("the queue is empty: delivered ")
    assert ids_of(emulator.events()) == [1]
    (spool / "b.json").mkdir()
    said = done(daemon, "drain", "--timeout", "1 h", status=1)
    assert "1 file in the spool folder left: cannot read " in said
    assert "b.json: found a folder, expected a file" in said


def test_drain_empties_the_queue_of_a_daemon_that_is_stopped(make_daemon, setup, emulator):
    emulator.fail(Fault("status", status=503))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, range(200))
    daemon.end()
    for command in ("flush", "pause", "resume"):
        assert "it is not running; start it" in done(daemon, command, status=1)
    emulator.recover()
    counted = emulator.stats()["counted_events"]
    assert done(daemon, "drain") == "the queue is empty: delivered 200 events\n"
    assert emulator.stats()["counted_events"] - counted == 200
    assert daemon.books().sent == 200
    assert done(daemon, "drain") == "the queue is empty: delivered 0 events\n"
    daemon.start()
    hand_in(setup.http_port, [200])
    assert daemon.drained().sent == 201


def test_a_daemon_cannot_start_while_a_drain_owns_the_state(make_daemon, setup, emulator):
    """Else a row could be leased twice."""
    emulator.fail(Fault("status", status=503))
    filled(setup.state, 10).close()
    daemon = make_daemon(setup)
    command = [sys.executable, "-m", "agent", "drain", "--config", str(daemon.config)]
    with subprocess.Popen(
        command, cwd=ROOT, env=daemon.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as drain:
        assert emulator.wait_for(lambda: emulator.attempts > 0, 15)
        daemon.spawn()
        assert daemon.exit_status() == 1
        emulator.recover()
        assert drain.wait(30) == 0
    assert "another ga4-agent works on it" in daemon.log
    assert sorted(ids_of(emulator.events())) == list(range(10))


def test_a_wrong_timeout_or_configuration_is_status_2(make_daemon, setup):
    daemon = make_daemon(setup)
    assert "found '5'" in done(daemon, "drain", "--timeout", "5", status=2)
    daemon.write("state_directory = [")
    assert str(daemon.config) in done(daemon, "drain", status=2)


def test_a_page_with_a_wrong_origin_is_seen_by_who_looks_on(make_daemon, setup):
    """It cannot read its answer, and nobody else hears of it."""
    daemon = make_daemon(setup)
    daemon.start()
    newest = ask(setup.state, "recent")["newest"]
    url = f"http://127.0.0.1:{setup.http_port}/events"
    page = {"Origin": "https://shop.example"}
    assert requests.post(url, b'{"name":"tap"}', headers=page, timeout=10).status_code == 403
    [sighting] = ask(setup.state, "recent", after=newest)["sightings"]
    assert (sighting["source"], sighting["turned_away"]["reason"]) == ("http", "forbidden")
    assert "https://shop.example" in sighting["turned_away"]["why"]
