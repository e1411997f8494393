"""``ga4-agent ledger``: what anyone can compare with GA4, whether the daemon runs or not."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.event import Stamp
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.ledger import DAY_US, Sent
from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon

CAP = 64 * 1024 * 1024
DAY = "2024-01-15"
LATER_US = 1_772_352_000_000_000  # 2026-03-01 08:00 UTC
STAMP = Stamp(wall_us=1_705_305_600_000_000, boot_us=1, boot_id="boot", trusted=True)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_directory = "{tmp_path}/state"\n')
    (tmp_path / "state").mkdir()
    return str(path)


@pytest.fixture
def state(tmp_path, config):
    """Two taps sent a day later, one waiting; a vend of the other stream purged."""
    return tmp_path / "state"


@pytest.fixture
def filled(state, make_event):
    queue = EventQueue.open(state, max_bytes=CAP)
    queue.put_many(
        [make_event("tap", stamp=STAMP) for _ in range(3)]
        + [make_event("\x1b[2Jvend", stream="other", stamp=STAMP)],
        counts={"repaired.text_cut": 2, "noted.borrowed_without_session": 1},
    )
    leased = queue.lease("main", limit=2)
    sent = [Sent("2024-01-16", "main", "tap", "") for _ in leased]
    queue.ack_many([row.id for row in leased], sent=sent)
    queue.drop([row.id for row in queue.lease("other", limit=1)], reason="uncertain")
    yield queue
    queue.close()


def shown(config, *more):
    ended = ga4_agent("ledger", "--config", config, *more)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def document(config, *more):
    return json.loads(shown(config, "--json", *more))


def test_the_table_says_what_became_of_events_day_by_day(filled, config):
    lines = [line.split() for line in shown(config).splitlines()]
    assert ["complete", "until", "2024-01-15T08:00:00+00:00"] in lines
    assert [
        "total",
        "4",
        "received,",
        "2",
        "sent,",
        "1",
        "queued,",
        "0",
        "dead,",
        "1",
        "dropped",
    ] in lines
    assert ["dropped", "1", "uncertain"] in lines
    assert ["repaired", "2", "text_cut"] in lines
    assert ["noted", "1", "borrowed_without_session"] in lines
    assert ["day", "stream", "event", "received", "sent", "dead", "dropped"] in lines
    assert [DAY, "main", "tap", "3", "0", "0", "0"] in lines
    assert ["2024-01-16", "main", "tap", "0", "2", "0", "0"] in lines


def test_no_name_of_an_event_steers_the_terminal(filled, config):
    assert "\x1b" not in shown(config)
    assert "vend" in shown(config)


def test_the_json_has_all_of_it(filled, config):
    found = document(config)
    assert found["complete_until"] == "2024-01-15T08:00:00+00:00"
    assert found["total"] == {
        "received": 4, "sent": 2, "queued": 1, "dead": 0, "dropped": {"uncertain": 1},
        "refused": {}, "repaired": {"text_cut": 2}, "noted": {"borrowed_without_session": 1},
        "balanced": True,
    }  # fmt: skip
    zero = {"received": 0, "sent": 0, "dead": 0, "dropped": {}}
    assert found["days"] == [
        {"day": DAY, "stream": "main", "event": "tap", **zero, "received": 3},
        {"day": DAY, "stream": "other", "event": "\x1b[2Jvend", **zero, "received": 1,
         "dropped": {"uncertain": 1}},
        {"day": "2024-01-16", "stream": "main", "event": "tap", **zero, "sent": 2},
    ]  # fmt: skip
    assert found["limits"] == [{"stream": "main", "what": "event_names", "found": 1, "limit": 500}]


def test_one_stream_and_the_newest_days_can_be_asked_for(filled, config):
    assert [row["stream"] for row in document(config, "--stream", "other")["days"]] == ["other"]
    assert [row["day"] for row in document(config, "--days", "1")["days"]] == ["2024-01-16"]
    assert document(config, "--stream", "other")["limits"] == []


def test_the_table_shows_a_week_and_the_json_all_days(state, config, make_event):
    queue = EventQueue.open(state, max_bytes=CAP)
    for number in range(10):
        stamp = replace(STAMP, wall_us=STAMP.wall_us + number * DAY_US)
        queue.put_many([make_event(stamp=stamp)])
    queue.close()
    assert len(document(config)["days"]) == 10
    assert len([line for line in shown(config).splitlines() if line.startswith("2024-")]) == 7


def test_the_daemon_knows_better_until_when_it_is_complete(filled, config, state):
    """Its clock may have been wrong when the oldest event was taken, and be right now."""
    status = {"queue": {"complete_until": "2024-01-15T09:30:00+00:00"}}
    with daemon(state, status=lambda: status):
        assert document(config)["complete_until"] == "2024-01-15T09:30:00+00:00"


def stopped_at(state, time_us):
    """A daemon that last wrote its file then, with nothing left to deliver."""
    EventQueue.open(state, max_bytes=CAP).close()
    for path in state.glob(f"{FILE_NAME}*"):
        os.utime(path, ns=(time_us * 1000, time_us * 1000))


@pytest.mark.parametrize("ask", [("ledger", "--json"), ("status", "--json")], ids=lambda a: a[0])
def test_a_stopped_agent_is_complete_until_it_was_last_alive(state, config, ask):
    """Nobody knows what has happened since. Asking changes nothing about that."""
    stopped_at(state, LATER_US)
    for _ in range(2):
        found = json.loads(ga4_agent(*ask, "--config", config).stdout)
        until = found.get("complete_until") or found["queue"]["complete_until"]
        assert until == "2026-03-01T08:00:00+00:00"


@pytest.mark.parametrize("ask", [("ledger", "--json"), ("status", "--json")], ids=lambda a: a[0])
def test_what_waits_in_the_spool_folder_of_a_stopped_agent_is_not_delivered(
    state, config, tmp_path, ask
):
    stopped_at(state, LATER_US)
    with Path(config).open("a") as file:
        file.write(f'[spool]\ndirectory = "{tmp_path}/in"\n')
    (tmp_path / "in").mkdir()
    for hours, name in enumerate(("b.json", "a.json", ".written.json")):
        path = tmp_path / "in" / name
        path.write_text("{}")
        ns = (LATER_US - (1 + hours) * 3_600_000_000) * 1000
        os.utime(path, ns=(ns, ns))
    found = json.loads(ga4_agent(*ask, "--config", config).stdout)
    until = found.get("complete_until") or found["queue"]["complete_until"]
    assert until == "2026-03-01T06:00:00+00:00"


def test_who_reads_beside_it_does_not_make_it_look_alive(state, config):
    """Reading may leave an empty WAL behind, with the time of now."""
    stopped_at(state, LATER_US)
    (state / f"{FILE_NAME}-wal").touch()
    assert document(config)["complete_until"] == "2026-03-01T08:00:00+00:00"


def test_a_daemon_that_was_killed_was_alive_when_it_last_wrote_to_the_wal(
    state, config, make_event
):
    stopped_at(state, LATER_US)
    queue = EventQueue.open(state, max_bytes=CAP)
    queue.put_many([make_event()])
    queue.ack_many([row.id for row in queue.lease("main", limit=1)])
    os.utime(state / FILE_NAME, ns=(LATER_US * 1000, LATER_US * 1000))
    wal_ns = (LATER_US + 3_600_000_000) * 1000
    os.utime(state / f"{FILE_NAME}-wal", ns=(wal_ns, wal_ns))
    assert document(config)["complete_until"] == "2026-03-01T09:00:00+00:00"
    queue.close()


def test_an_empty_ledger_says_so(state, config):
    EventQueue.open(state, max_bytes=CAP).close()
    assert document(config)["days"] == []
    assert "no events" in shown(config)


def test_the_oldest_event_counts_not_the_oldest_row(state, config, make_event):
    queue = EventQueue.open(state, max_bytes=CAP)
    queue.put_many([make_event(stamp=STAMP)])
    late = replace(STAMP, wall_us=STAMP.wall_us + DAY_US)
    queue.put_many([make_event(stamp=late, time_us=STAMP.wall_us - 30 * 3_600_000_000)])
    assert document(config)["complete_until"] == "2024-01-14T02:00:00+00:00"
    queue.close()


def test_where_there_is_no_queue_it_says_so(config):
    ended = ga4_agent("ledger", "--config", config)
    assert ended.exit_code == 1
    assert "found no" in ended.stderr


@pytest.mark.parametrize("days", ["0", "36", "x"])
def test_days_that_are_not_kept_are_wrong_usage(config, days):
    assert ga4_agent("ledger", "--config", config, "--days", days).exit_code == 2


def test_a_misspelt_stream_is_answered_with_those_that_exist(filled, config):
    said = ga4_agent("ledger", "--config", config, "--stream", "nope")
    assert "found no stream nope; there are: " in said.stderr
    assert (
        "found no stream" not in ga4_agent("ledger", "--config", config, "--stream", "main").stderr
    )
