"""The oldest event is found wherever its row lies: what is complete is said of events, not of rows."""

import time
from dataclasses import replace
from functools import partial

import persistqueue
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.anchor import Moment
from agent.boots import Boots
from agent.event import BootRow, RawMessage
from agent.queue import serializer
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.order import EARLIEST, FIRST, SLACK_US, Dated, Order
from agent.queue.pages import Selection
from agent.queue.reader import read_snapshot
from agent.queue.schema import TABLE
from agent.status import oldest_us
from tests.conftest import STAMP

CAP = 64 * 1024 * 1024
HOUR_US = 3_600_000_000
NOW_US = STAMP.wall_us
THIS_BOOT = BootRow(STAMP.boot_id, 7, "")
WHEN = partial(Boots().when, now=Moment(NOW_US + 1000 * HOUR_US, 0))


@pytest.fixture
def queue(queue):
    """One of a daemon: it knows its boot."""
    queue.put_many([], boots=[THIS_BOOT])
    return queue


def ids(leased):
    return [row.id for row in leased]


def later(hours, **fields):
    """A stamp of this boot, so much later."""
    us = int(hours * HOUR_US)
    return replace(STAMP, wall_us=NOW_US + us, boot_us=STAMP.boot_us + us, **fields)


def oldest(queue, directory):
    """As the daemon says, in hours from the usual stamp on; a reader beside it says the same."""
    found = oldest_us(queue.oldest_candidates(), WHEN)
    assert oldest_us(read_snapshot(directory).candidates, WHEN) == found
    return None if found is None else (found - NOW_US) / HOUR_US


def earlies(queue):
    return [early for (early,) in queue._read(f"SELECT early FROM {TABLE} ORDER BY _id")]


def damage(queue, row_id):
    with queue._putter as connection:
        connection.execute(f"UPDATE {TABLE} SET data = x'00' || data WHERE _id = ?", (row_id,))


def test_a_publishers_time_makes_an_event_older_than_its_row(queue, tmp_path, make_event):
    queue.put_many([make_event(stamp=later(0)), make_event(stamp=later(1))])
    queue.put_many([make_event(stamp=later(2), time_us=NOW_US - 30 * HOUR_US)])
    assert oldest(queue, tmp_path) == -30


def test_a_line_of_the_spool_folder_may_be_older_than_all_rows(queue, tmp_path, make_event):
    queue.put_many([make_event(stamp=later(0))])
    queue.put_many([make_event(stamp=later(-3))])
    queue.put_many([make_event(stamp=replace(later(-5), boot_id="before"))])
    queue.put_many([make_event(stamp=replace(later(-4), boot_id="", trusted=False))])
    assert oldest(queue, tmp_path) == -5
    queue.ack_many([3])
    assert oldest(queue, tmp_path) == -4
    queue.ack_many([4])
    assert oldest(queue, tmp_path) == -3


def test_it_is_remembered_across_a_restart_what_was_put(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event(stamp=later(1))], boots=[THIS_BOOT])
    queue.close()
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([], boots=[THIS_BOOT])
    queue.put_many([make_event(stamp=later(0)), make_event(stamp=later(2))])
    assert earlies(queue) == [None, later(0).wall_us / 1e6, None]
    assert oldest(queue, tmp_path) == 0
    queue.close()


def test_a_requeued_dead_letter_is_as_old_as_it_was(queue, tmp_path, make_event):
    queue.put_many([make_event(stamp=later(0)), make_event(stamp=later(1), time_us=NOW_US - 1)])
    queue.put_many([make_event(stamp=later(1), time_us=NOW_US - 9 * HOUR_US)])
    queue.lease("main", limit=25)
    queue.bury([1, 3], reason="refused")
    assert oldest(queue, tmp_path) == pytest.approx(0, abs=1e-6)
    queue.requeue(Selection(dead=True))
    assert oldest(queue, tmp_path) == -9


def test_a_damaged_row_hides_no_event(queue, tmp_path, make_event):
    queue.put_many([make_event(stamp=later(number)) for number in range(3)])
    queue.put_many([make_event(stamp=later(3), time_us=NOW_US - HOUR_US)])
    damage(queue, 1)
    damage(queue, 4)
    assert oldest(queue, tmp_path) == 1


def test_where_all_that_waits_is_damaged_the_columns_are_believed(queue, tmp_path, make_event):
    queue.put_many([make_event(stamp=later(number)) for number in range(2)])
    damage(queue, 1)
    damage(queue, 2)
    assert oldest(queue, tmp_path) == 0, "not: nothing waits"


def test_a_publishers_time_in_the_future_makes_nothing_younger(queue, tmp_path, make_event):
    """What came after it is at least as old as it was when it was taken."""
    queue.put_many([make_event(stamp=later(0), time_us=NOW_US + 9 * HOUR_US)])
    queue.put_many([make_event(stamp=later(n)) for n in (1, 2)])
    assert oldest(queue, tmp_path) == 0


def test_an_empty_queue_has_no_oldest_nor_one_of_dead_letters(queue, tmp_path, make_event):
    assert oldest(queue, tmp_path) is None
    queue.put_many([RawMessage("mqtt", "malformed", b"x", STAMP), make_event()])
    queue.bury(ids(queue.lease("main", limit=1)), reason="refused")
    assert oldest(queue, tmp_path) is None


def test_a_boot_without_a_right_clock_hides_no_late_event(queue, tmp_path, make_event):
    """Its stamps of 1970 are in order all the same; only what came late is looked for."""
    wrong = [
        replace(later(n), wall_us=n, boot_id="next", trusted=False) for n in range(2 * EARLIEST)
    ]
    queue.put_many([make_event(stamp=stamp) for stamp in wrong], boots=[BootRow("next", 8, "")])
    queue.put_many([make_event(stamp=wrong[-1], time_us=NOW_US - HOUR_US)])
    assert earlies(queue)[: 2 * EARLIEST] == [None] * (2 * EARLIEST)
    stamps = {one.time_us for one in queue.oldest_candidates()}
    assert NOW_US - HOUR_US in stamps


def test_usual_rows_cost_no_more_than_before(queue, make_event):
    """Only what came late is in the index, and only while it waits."""
    queue.put_many([make_event(stamp=later(n / 10)) for n in range(20)])
    queue.put_many([make_event(stamp=later(2), time_us=later(2).wall_us - SLACK_US)])
    assert set(earlies(queue)) == {None}


def test_an_adopted_row_is_as_old_as_its_event(tmp_path, make_event):
    EventQueue.open(tmp_path, max_bytes=CAP).close()
    plain = persistqueue.SQLiteAckQueue(
        str(tmp_path), multithreading=True, serializer=serializer, db_file_name=FILE_NAME
    )
    for _ in range(2 * FIRST):
        plain.put(make_event(stamp=later(0)))
    plain.put(make_event(stamp=later(-2)))
    plain.close()
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    assert oldest(queue, tmp_path) == -2
    queue.close()


def test_the_id_of_a_row_is_said_before_its_content_is_looked_at_and_only_once(queue, make_event):
    queue.put_many([make_event(stamp=later(number)) for number in range(2)])
    queue.put_many([make_event(stamp=later(2), time_us=NOW_US - HOUR_US)])
    told = []
    queue._getter.set_trace_callback(told.append)
    queue.oldest_candidates(on_pick=told.append)
    looks = [entry for entry in told if isinstance(entry, int) or "data" in entry]
    assert looks[::2] == [1, 2, 3]
    assert [look.split()[-1] for look in looks[1::2]] == ["1", "2", "3"]
    queue._getter.set_trace_callback(None)
    queue.oldest_candidates(on_pick=lambda _id: pytest.fail("it is known"))


def test_it_is_found_at_once_among_very_many(queue, tmp_path, make_event):
    """No look at all rows: neither at those that wait, nor at dead letters before them."""
    queue.put_many([make_event(stamp=later(0)), make_event(stamp=later(0), time_us=1)])
    with queue._putter as connection:
        connection.execute(
            f"INSERT INTO {TABLE} (data, timestamp, status, stream, early) WITH RECURSIVE "
            "n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
            "SELECT x'00', i, 0, 'main', CASE WHEN i % 3 THEN i END FROM n"
        )
    steps = []
    queue._getter.set_progress_handler(lambda: steps.append(1), 1000)
    assert oldest_us(queue.oldest_candidates(), WHEN) == 1
    assert len(steps) < 20, "thousands of steps of SQLite's machine"
    began = time.monotonic()
    read_snapshot(tmp_path)
    assert time.monotonic() - began < 1


# -- the rule by itself ---------------------------------------------------------------------

STAMPS = st.builds(
    lambda boot, us, wall, trusted: replace(
        STAMP, boot_id=boot, boot_us=us, wall_us=us if trusted else wall, trusted=trusted
    ),
    st.sampled_from(["", "boot", "before"]),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.booleans(),
)


@given(st.lists(st.tuples(STAMPS, st.none() | st.integers(0, 10**9))))
def test_what_comes_in_order_is_at_most_the_slack_older_than_what_came_before(items):
    """Here the true time is that of the boot clock, so it can be compared."""
    order = Order()
    order.begin("boot", 1)
    newest = 0
    for stamp, time_us in items:
        dated = Dated(stamp, time_us)
        early = order.early(dated)
        own = stamp.boot_id == "boot"
        true_us = stamp.boot_us if time_us is None else min(time_us, stamp.boot_us)
        if early is None:
            assert own
            assert true_us >= newest - 2 * SLACK_US
        else:
            assert early == dated.claimed_s
        newest = max(newest, stamp.boot_us if own else 0)


def test_an_older_boot_is_never_taken_for_the_present_one():
    order = Order()
    order.begin("b", 5)
    order.begin("a", 4)
    assert order.early(Dated(replace(STAMP, boot_id="b"))) is None
    assert order.early(Dated(replace(STAMP, boot_id="a"))) == STAMP.wall_us / 1e6
