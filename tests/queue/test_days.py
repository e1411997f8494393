"""The ledger by day, stream and event: exact, bounded, and comparable with GA4."""

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import RawMessage, Sender
from agent.queue.days import (
    CLIENT,
    CLIENTS_TOGETHER,
    EVENTS_OF_A_CLIENT,
    KEPT,
    NAME_MAX,
    OTHER,
    SINCE,
    DayRow,
    Days,
    Near,
    read_days,
)
from agent.queue.event_queue import FIGURES_FOR, FILE_NAME, EventQueue
from agent.queue.ledger import DAY_US, Sent, day_of
from agent.queue.pages import Selection
from agent.queue.reader import reading
from agent.queue.schema import TABLES
from tests.conftest import STAMP

CAP = 64 * 1024 * 1024
TODAY = "2027-01-15"


def ids(leased):
    return [row.id for row in leased]


def on_day(number):
    """A stamp so many days after the usual one."""
    return replace(STAMP, wall_us=STAMP.wall_us + number * DAY_US)


def deliver(queue, *, client="c", day=TODAY, stream="main", limit=25):
    leased = queue.lease(stream, limit=limit)
    sent = [Sent(day, stream, row.event.name, client) for row in leased]
    queue.ack_many(ids(leased), sent=sent)


def clients(path):
    """What the file says of clients: day, digest and number."""
    connection = sqlite3.connect(path / FILE_NAME)
    sql = "SELECT day, event, value FROM ledger_days WHERE counter = 'client' ORDER BY day, event"
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def test_events_are_counted_by_day_stream_and_name(queue, make_event):
    queue.put_many([make_event("tap"), make_event("tap"), make_event("vend", stream="other")])
    assert queue.days() == [
        DayRow(day=TODAY, stream="main", event="tap", received=2),
        DayRow(day=TODAY, stream="other", event="vend", received=1),
    ]


def test_sent_is_counted_on_the_day_that_ga4_was_told(queue, make_event):
    queue.put_many([make_event("tap", stamp=on_day(0))])
    deliver(queue, day="2027-01-16")
    assert queue.days() == [
        DayRow(day=TODAY, stream="main", event="tap", received=1),
        DayRow(day="2027-01-16", stream="main", event="tap", sent=1),
    ]


def test_without_a_word_about_it_sent_is_counted_on_the_day_of_the_stamp(queue, make_event):
    queue.put_many([make_event("tap", stamp=on_day(1))])
    queue.ack_many(ids(queue.lease("main", limit=1)))
    [row] = queue.days()
    assert (row.day, row.received, row.sent) == ("2027-01-16", 1, 1)


def test_each_event_that_left_is_said_once(queue, make_event):
    queue.put_many([make_event(), make_event()])
    leased = queue.lease("main", limit=2)
    with pytest.raises(ValueError, match="found 1, expected 2"):
        queue.ack_many(ids(leased), sent=[Sent(TODAY, "main", "tap", "c")])
    assert queue.books.queued == 2


def test_what_died_is_dead_on_its_day_until_it_is_requeued_or_purged(queue, make_event):
    queue.put_many([make_event("a"), make_event("b")])
    queue.bury(ids(queue.lease("main", limit=2)), reason="refused")
    assert [(row.event, row.dead) for row in queue.days()] == [("a", 1), ("b", 1)]
    queue.requeue(Selection(dead=True, name="a"))
    queue.purge(Selection(dead=True, name="b"))
    assert [(row.event, row.dead, row.dropped) for row in queue.days()] == [
        ("a", 0, {}),
        ("b", 0, {"purged": 1}),
    ]


def test_raw_messages_and_damaged_rows_have_lines_of_their_own(queue, make_event):
    queue.put_many([make_event("a"), RawMessage("mqtt", "malformed", b"x", STAMP)])
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET data = 'x' || substr(data, 2) WHERE _id = 1")
    assert queue.lease("main", limit=1) == ()
    found = [(row.day, row.stream, row.event, row.received, row.dead) for row in queue.days()]
    assert found == [
        (TODAY, "?", "(raw message)", 1, 1),
        (TODAY, "main", "(damaged)", 0, 1),
        (TODAY, "main", "a", 1, 0),
    ]


def test_dropped_events_are_counted_by_reason(queue, make_event):
    queue.put_many([make_event("tap") for _ in range(3)])
    queue.drop(ids(queue.lease("main", limit=2)), reason="uncertain")
    queue.purge(Selection())
    [row] = queue.days()
    assert row.dropped == {"purged": 1, "uncertain": 2}


def test_a_batch_of_equal_events_is_one_write(queue, make_event):
    queue.put_many([make_event("tap") for _ in range(25)])
    statements = []
    queue._putter.set_trace_callback(statements.append)
    deliver(queue, client="")
    assert len([sql for sql in statements if sql.startswith("INSERT INTO ledger_days")]) == 1


def test_the_newest_days_and_one_stream_can_be_asked_for(queue, make_event):
    for number in range(3):
        queue.put_many([make_event(stamp=on_day(number)), make_event(stream="s")])
    assert [row.day for row in queue.days(last=2, stream="main")] == ["2027-01-16", "2027-01-17"]
    assert queue.days(stream="none") == []


def test_as_many_days_are_kept_as_promised_the_newest_in_whatever_order_they_come(
    tmp_path, make_event
):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    numbers = [*range(0, 50, 2), *range(1, 50, 2)]
    for number in numbers:
        queue.put_many([make_event(stamp=on_day(number))])
    queue.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    again.put_many([make_event(stamp=on_day(50))])
    days = [row.day for row in again.days()]
    assert days == [day_of(on_day(number).wall_us) for number in range(16, 51)]
    assert len(days) == KEPT
    again.close()


def untrusted(number):
    """A stamp so many days after the usual one, by a clock that nobody vouches for."""
    return replace(on_day(number), trusted=False)


def days_of(queue):
    return sorted({row.day for row in queue.days()})


def name_of(*numbers):
    return [day_of(on_day(number).wall_us) for number in numbers]


def test_a_wrong_clock_takes_no_days_away(queue, make_event):
    """One of 1970 has its place for today; a day of the future has one place, not all of them."""
    for number in range(KEPT - 1):
        queue.put_many([make_event(stamp=on_day(number))])
    queue.put_many([make_event(stamp=untrusted(30_000))])
    queue.put_many([make_event(stamp=replace(STAMP, wall_us=5, trusted=False))])
    assert days_of(queue) == ["1970-01-01", *name_of(*range(KEPT - 1), 30_000)]
    queue.put_many([make_event(stamp=on_day(KEPT - 1))])
    assert days_of(queue) == name_of(*range(KEPT))


def deliver_each_on_its_day(queue):
    while leased := queue.lease("main", limit=25):
        queue.ack_many(
            ids(leased),
            sent=[Sent(day_of(row.event.stamp.wall_us), "main", "tap", "client") for row in leased],
        )


def test_events_older_than_all_days_that_are_kept_can_still_be_sent(queue, make_event):
    """With late = "send": their days may be gone before their clients are counted."""
    for number in range(KEPT + 5):
        queue.put_many([make_event(stamp=on_day(number)) for _ in range(CLIENTS_TOGETHER)])
    deliver_each_on_its_day(queue)
    assert queue.books.sent == (KEPT + 5) * CLIENTS_TOGETHER
    assert days_of(queue) == name_of(*range(5, KEPT + 5))
    assert {row.sent for row in queue.days()} == {CLIENTS_TOGETHER}


def test_late_events_are_sent_beside_a_full_ledger(queue, make_event):
    for number in range(KEPT + 1):
        queue.put_many([make_event(stamp=on_day(number))])
        deliver_each_on_its_day(queue)
    queue.put_many([make_event(stamp=on_day(0)) for _ in range(2 * CLIENTS_TOGETHER)])
    queue._days._with_clients.clear()  # as after a restart
    deliver_each_on_its_day(queue)
    assert queue.books.queued == 0
    assert days_of(queue) == name_of(*range(1, KEPT + 1)), "they are older than what is kept"


def test_clients_of_no_day_that_is_kept_are_no_reason_to_fail(queue, make_event):
    """Their day goes with the write that counts them, and no other day has any."""
    for number in range(KEPT):
        queue.put_many([make_event(stamp=on_day(number))])
        deliver(queue, client="", day=name_of(number)[0])
    queue.put_many([make_event() for _ in range(CLIENTS_TOGETHER)])
    deliver(queue, day=name_of(-1)[0])
    assert queue.books.queued == 0
    assert days_of(queue) == name_of(*range(KEPT))


def test_the_true_day_is_counted_beside_a_ledger_full_of_the_future(queue, make_event):
    """A clock in the future filled it; then the clock is set."""
    for number in range(KEPT + 1):
        queue.put_many([make_event(stamp=untrusted(3650 + number))])
    queue.put_many([make_event() for _ in range(2 * CLIENTS_TOGETHER)])
    while leased := queue.lease("main", limit=25):
        queue.ack_many(ids(leased), sent=[Sent(TODAY, "main", "tap", "client") for _ in leased])
    [today] = [row for row in queue.days() if row.day == TODAY]
    assert (today.received, today.sent) == (2 * CLIENTS_TOGETHER, queue.books.sent)


def test_days_of_a_clock_in_the_future_make_room_for_those_that_come(queue, make_event):
    """Offline all the while: nothing is sent that would say which days are true."""
    for number in range(KEPT + 1):
        queue.put_many([make_event(stamp=untrusted(3650 + number))])
    for number in range(KEPT):
        queue.put_many([make_event(stamp=untrusted(number))])
        assert set(name_of(*range(number + 1))) <= set(days_of(queue))
    assert days_of(queue) == name_of(*range(KEPT))


def test_days_in_the_future_take_no_place_of_those_on_which_something_was_sent(queue, make_event):
    for number in range(KEPT):
        queue.put_many([make_event(stamp=on_day(number))])
        deliver_each_on_its_day(queue)
    for number in range(2 * KEPT):
        queue.put_many([make_event(stamp=untrusted(3650 + number))])
        assert name_of(3650 + number)[0] in days_of(queue), "what is counted now has its place"
    found = days_of(queue)
    assert found[:KEPT] == name_of(*range(KEPT))
    assert len(found) == 2 * KEPT, "and they are few themselves"
    assert [row.day for row in queue.days(last=1)] == name_of(KEPT - 1, 3650 + 2 * KEPT - 1)


def test_days_without_a_network_are_kept_though_nothing_was_sent_on_them(queue, make_event):
    for number in range(KEPT):
        queue.put_many([make_event(stamp=on_day(number))])
        deliver_each_on_its_day(queue)
    for number in range(KEPT, KEPT + 10):
        queue.put_many([make_event(stamp=untrusted(number))])
    assert days_of(queue) == name_of(*range(KEPT + 10))
    deliver_each_on_its_day(queue)
    queue.put_many([make_event(stamp=on_day(KEPT + 10))])
    deliver_each_on_its_day(queue)
    queue.put_many([make_event(stamp=on_day(KEPT + 11))])
    assert days_of(queue) == name_of(*range(11, KEPT + 12))


@given(st.lists(st.tuples(st.integers(-30_000, 2_940_000), st.booleans()), max_size=60))
def test_whatever_the_clock_says_nothing_raises_and_what_is_new_is_counted(moves):
    """``moves``: the day of the clock, and whether what was taken is sent at once."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    days = Days(names=20, clients=20)
    for number, sent in moves:
        [day] = name_of(number)
        days.write(connection, {(day, "main", "tap", "received"): 1})
        if sent:
            days.write(connection, {(day, "main", "tap", "sent"): 1})
            days.write(connection, {(day, "main", "c", CLIENT): CLIENTS_TOGETHER})
        found = {row.day for row in read_days(connection)}
        kept = [row.day for row in read_days(connection) if row.sent][-KEPT:]
        assert day in found or (len(kept) == KEPT and day < kept[0]) or day < SINCE
        assert len(found) <= 2 * KEPT + 1
    connection.close()


def test_what_is_purged_of_forgotten_days_leaves_nothing_there(queue, make_event):
    queue.put_many([make_event(stamp=on_day(-1))])
    queue.bury(ids(queue.lease("main", limit=1)), reason="refused")
    for number in range(KEPT):
        queue.put_many([make_event(stamp=on_day(number))])
    queue.purge(Selection(dead=True))
    assert queue.days()[0].day == TODAY
    assert all(row.dead == 0 for row in queue.days())


def test_names_beyond_the_bound_are_counted_together(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    names = queue._days._most[False]
    assert names == 500
    queue.put_many([make_event(f"e{n:04}") for n in range(names + 10)])
    queue.put_many([make_event("e0000"), make_event("one more", stream="other")])
    while queue.ready("main"):
        deliver(queue)
    rows = queue.days()
    assert len(rows) == names + 2
    assert [(r.received, r.sent) for r in rows if r.event == OTHER] == [(10, 10)]
    assert [(r.received, r.sent) for r in rows if r.event == "e0000"] == [(2, 2)]
    queue.close()


def test_a_small_queue_keeps_less_and_stays_under_its_cap(tmp_path, make_event):
    cap = 4 * 1024 * 1024
    queue = EventQueue.open(tmp_path, max_bytes=cap)
    for day in range(KEPT):
        queue.put_many([make_event(f"{day}-{n}", stamp=on_day(day)) for n in range(200)])
        while queue.ready("main"):
            leased = queue.lease("main", limit=25)
            sent = [Sent(day_of(on_day(day).wall_us), "main", r.event.name, "c") for r in leased]
            queue.ack_many(ids(leased), sent=sent)
    assert queue.used_bytes < (cap - 2 * 1024 * 1024) / 2
    assert queue.books.sent == sum(row.sent for row in queue.days()) == KEPT * 200
    queue.close()


def test_the_name_of_an_event_can_be_anything(queue, make_event):
    queue.put_many([make_event("x" * 10_000), make_event("\x00\x1b"), make_event("")])
    assert [row.event for row in queue.days()] == ["", "\x00\x1b", "x" * NAME_MAX]


def test_a_reader_sees_the_same_days(queue, tmp_path, make_event):
    queue.put_many([make_event("tap"), make_event("vend")])
    deliver(queue, limit=1)
    with reading(tmp_path) as reader:
        assert reader.days() == queue.days()


# -- GA4's limits ---------------------------------------------------------------------------


def test_events_of_a_client_are_counted_for_two_days(queue, tmp_path, make_event):
    for day in ("2027-01-14", TODAY, "2027-01-16"):
        queue.put_many([make_event() for _ in range(2 * CLIENTS_TOGETHER)])
        deliver(queue, client="a", day=day)
        deliver(queue, client="b", day=day)
    assert clients(tmp_path) == [
        (day, client, CLIENTS_TOGETHER) for day in (TODAY, "2027-01-16") for client in "ab"
    ]


def test_days_on_which_nothing_was_sent_do_not_count_for_clients(queue, tmp_path, make_event):
    """A clock in the future must not make the clients of today disappear."""
    queue.put_many([make_event() for _ in range(CLIENTS_TOGETHER)])
    deliver(queue)
    for number in (1, 30_000, 30_001):
        queue.put_many([make_event(stamp=on_day(number))])
    assert clients(tmp_path) == [(TODAY, "c", CLIENTS_TOGETHER)]


def test_clients_are_bounded(queue, tmp_path, make_event):
    queue._days._most[True] = 3
    for client in range(5):
        queue.put_many([make_event() for _ in range(CLIENTS_TOGETHER)])
        deliver(queue, client=str(client))
    queue.put_many([make_event() for _ in range(CLIENTS_TOGETHER)])
    deliver(queue, client="0")
    assert clients(tmp_path) == [(TODAY, "0", 50), (TODAY, "1", 25), (TODAY, "2", 25)]


def test_counting_clients_costs_no_write_of_its_own_with_each_event(queue, make_event):
    queue.put_many([make_event() for _ in range(CLIENTS_TOGETHER - 1)])
    statements = []
    queue._putter.set_trace_callback(statements.append)
    deliver(queue)
    assert not [sql for sql in statements if "'client')" in sql and sql.startswith("INSERT")]


def crowd(queue, value, *, day=TODAY, stream="main"):
    with queue._putter as connection:
        sql = "INSERT INTO ledger_days VALUES (?, ?, 'digest', 'client', ?)"
        connection.execute(sql, (day, stream, value))


def test_at_80_percent_of_a_limit_it_is_told(tmp_path):
    now = [0.0]
    queue = EventQueue.open(tmp_path, max_bytes=CAP, monotonic=lambda: now[0])
    crowd(queue, EVENTS_OF_A_CLIENT * 8 // 10 - 1)
    crowd(queue, EVENTS_OF_A_CLIENT * 8 // 10, stream="busy")
    assert queue.nearness() == [Near("busy", "events_of_a_client", 80_000, 100_000)]
    crowd(queue, EVENTS_OF_A_CLIENT, day="2027-01-14", stream="busy")
    assert queue.nearness()[0].found == 80_000, "it is not looked up with every status"
    now[0] += FIGURES_FOR
    assert queue.nearness()[0].found == EVENTS_OF_A_CLIENT, "yesterday's too"
    queue.close()


def test_event_names_are_limited_for_app_streams_only(queue, make_event):
    for number in range(2):
        events = [make_event(f"e{number}-{n}", stamp=on_day(number)) for n in range(200)]
        queue.put_many([*events, *(replace(e, stream="app") for e in events)])
        for stream in ("main", "app"):
            while queue.ready(stream):
                queue.ack_many(ids(queue.lease(stream, limit=25)))
    assert queue.nearness(apps=["app"]) == [Near("app", "event_names", 400, 500)]


# -- the parts ------------------------------------------------------------------------------


@given(st.integers(-(10**30), 10**30))
def test_any_time_has_a_day(time_us):
    assert len(day_of(time_us)) == len("2027-01-15")


@pytest.mark.parametrize(
    ("time_us", "day"),
    [
        (0, "1970-01-01"),
        (DAY_US - 1, "1970-01-01"),
        (DAY_US, "1970-01-02"),
        (-1, "1969-12-31"),
        (STAMP.wall_us, TODAY),
    ],
)
def test_a_day_ends_at_midnight_utc(time_us, day):
    assert day_of(time_us) == day


def test_a_client_is_counted_under_a_digest_that_is_another_one_each_day():
    def of(client, day=0):
        sender, time_us = Sender(client_id=client), on_day(day).wall_us
        return Sent.of(name="tap", sender=sender, stream="main", time_us=time_us)

    assert (of("1.2").day, of("1.2").stream, of("1.2").name) == (TODAY, "main", "tap")
    assert of("1.2") == of("1.2")
    assert len({of("1.2").client, of("1.3").client, of("1.2", day=1).client}) == 3
    assert "1.2" not in of("1.2").client
