"""``status``: what a person reads of it."""

import json

import pytest

from agent.cli.ages import in_two_units, rounded
from agent.cli.status import _rows, of_file
from agent.clock import Clock
from agent.delivery.outlet import OutletReport
from agent.event import RawMessage
from agent.queue.days import Near
from agent.queue.event_queue import EventQueue
from agent.queue.ledger import Books
from agent.queue.opening import open_queue
from agent.status import Observation, status_of
from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon
from tests.conftest import STAMP

NOON_US = 1_772_366_400_000_000
CLOCK = Clock(wall=lambda: NOON_US, boot=lambda: 10**13, boot_id="b", synchronised=lambda: True)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_directory = "{tmp_path}/state"\nvolatile = true\n')
    return path


@pytest.fixture
def shown(config, tmp_path):
    """What is shown of what a daemon sees: a list of names and values."""

    def show(**seen):
        usual = dict(books=Books(), used_bytes=0, max_bytes=None, oldest_us=None)
        document = status_of(Observation(**(usual | seen)), CLOCK).document
        with daemon(tmp_path / "state", status=lambda: document):
            return table(ga4_agent("status", "--config", str(config)))

    return show


def table(ended):
    assert (ended.exit_code, ended.stderr) == (0, "")
    lines = [line.strip().split("  ", 1) for line in ended.stdout.splitlines()]
    return {name: value.strip() for name, value in lines}


def test_what_stands_in_brackets_is_shown(shown):
    """The names of tables in a configuration do."""
    problem = "run `[link=x]` as [http] says [bold]"
    found = shown(problems={"http": problem}, outlets=(OutletReport("main", "ok", "", 0.0, 1.0),))
    assert found["source http"] == problem
    assert found["state"] == f"degraded - http: {problem}"


def test_the_ledger_names_all_that_its_sum_is_made_of(shown):
    books = Books(received=20, sent=9, queued=5, dead=3, dropped={"evicted": 1, "purged": 2})
    assert shown(books=books)["ledger"] == "20 received, 9 sent, 5 queued, 3 dead, 3 dropped"


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (0.8372, "0.8 s old - GA4 takes it for 2 d 22 h more"),
        (9123, "2.5 h old - GA4 takes it for 2 d 20 h more"),
        (70.9 * 3600, "3 d old - GA4 takes it for 6 min more"),
        (80 * 3600, "3.3 d old - too old: see [stream.NAME] late"),
    ],
)
def test_the_oldest_event_says_how_old_it_is_and_how_long_it_may_wait(shown, age, said):
    assert shown(oldest_us=NOON_US - int(age * 1e6))["oldest event"] == said


def test_until_when_everything_was_delivered_is_told(shown):
    assert shown(oldest_us=NOON_US - 3_600_000_000)["complete until"] == "2026-03-01T11:00:00+00:00"


@pytest.mark.parametrize("kind", ["dropped", "refused", "repaired", "noted"])
def test_each_kind_that_is_counted_has_its_line(shown, kind):
    assert shown(books=Books(received=7, **{kind: {"why": 7}}))[kind] == "7 why"


def test_the_clock_says_who_vouches_for_it_and_how_well(shown):
    assert shown()["clock"] == "trusted by NTP, to 0.1 s"


def test_what_comes_near_a_limit_of_ga4_is_a_warning(shown):
    near = Near(stream="shop", what="event_names", found=450, limit=500)
    assert shown(near=(near,))["warning"] == (
        "stream shop: found 450 different event names in 35 days; GA4 takes 500"
    )


def test_each_stream_says_when_it_last_delivered_and_when_it_tries_again(shown):
    found = shown(
        outlets=(
            OutletReport("shop", "offline", "no route", 12.4, 9000.0),
            OutletReport("main", "ok", "", 0.0, 3.1),
            OutletReport("new", "ok", "", 0.0, None),
        )
    )
    assert found["stream shop"] == "offline - no route - delivered 2.5 h ago - next try in 12 s"
    assert found["stream main"] == "ok - delivered 3.1 s ago"
    assert found["stream new"] == "ok - nothing delivered since the start"


def test_with_the_daemon_down_it_says_how_many_files_wait_for_it(config, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    EventQueue.open(state, max_bytes=64 * 1024 * 1024).close()
    assert "spool folder" not in table(ga4_agent("status", "--config", str(config)))
    with config.open("a") as file:
        file.write(f'[spool]\ndirectory = "{tmp_path}/in"\n')
    (tmp_path / "in").mkdir()
    for name in ("a.json", "b.ndjson", ".c.json"):
        (tmp_path / "in" / name).write_text("{}")
    found = table(ga4_agent("status", "--config", str(config)))
    assert found["spool folder"] == "2 files waiting for the daemon"
    assert found["state"].startswith("stopped")
    document = json.loads(ga4_agent("status", "--config", str(config), "--json").stdout)
    assert document["spool"] == {"files": 2}


@pytest.mark.parametrize(
    ("seconds", "largest", "two"),
    [
        (0, "0 s", "0 s"),
        (0.04, "0 s", "0 s"),
        (9.94, "9.9 s", "9 s"),
        (59, "59 s", "59 s"),
        (60, "1 min", "1 min"),
        (90.5, "1.5 min", "1 min 30 s"),
        (3600, "1 h", "1 h"),
        (36_000, "10 h", "10 h"),
        (252_000, "2.9 d", "2 d 22 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, largest, two):
    assert (rounded(seconds), in_two_units(seconds)) == (largest, two)


def test_damage_of_the_queues_file_is_a_line_of_its_own(tmp_path):
    """A person must see that events were lost, how many, and where the file lies."""
    state = tmp_path / "state"
    queue = open_queue(state, max_bytes=64 * 1024 * 1024)
    queue.put_many([RawMessage("mqtt", "malformed", b"?", STAMP)])
    queue.close()
    (state / "queue.db").write_bytes(b"?" * 5000)
    open_queue(state, max_bytes=64 * 1024 * 1024).close()
    (state / "queue.v9.db").touch()
    document = of_file(None, state)
    assert document["damage"]["lost"] is None
    lines = dict(_rows(document))
    assert "the queue was damaged, 0 events were saved" in lines["damage"]
    assert "nobody can tell how many are lost" in lines["damage"]
    assert str(state / "quarantine" / "damaged-0001.db") in lines["damage"]
    assert lines["set aside"].startswith("queue.v9.db: written by a newer version")
