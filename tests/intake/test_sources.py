"""What every source promises, whatever it speaks: one suite for all of them."""

import itertools
import json
import threading
import uuid

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from agent.event import Priority
from agent.queue.event_queue import EventQueue
from tests.intake.rigs import RIGS, fill
from tests.intake.stored import events
from tests.waiting import until

MALFORMED = 60  # generated payloads for each source, beside the named ones
WRONG = {
    "name": st.one_of(st.none(), st.just(""), st.integers(), st.just([])),
    "params": st.one_of(st.integers(1), st.just("x"), st.just([1])),
    "event_id": st.one_of(st.just(""), st.integers(), st.just("x" * 300)),
    "session": st.one_of(st.text(max_size=2), st.just(1)),
    "priority": st.one_of(st.text(max_size=2), st.integers()),
    "timestamp_micros": st.one_of(st.just(-1), st.just("-1"), st.just(0.5), st.just(2**70)),
    "client_id": st.one_of(st.just(""), st.just(0.5)),
    "events": st.one_of(st.none(), st.just([]), st.integers(), st.just([{}])),
    "stream": st.integers(),
}


def is_json(payload):
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return True


def wrong_event(key):
    return WRONG[key].map(lambda value: json.dumps({"name": "tap", key: value}).encode())


malformed = st.one_of(
    st.binary(max_size=200).filter(lambda payload: not is_json(payload)),
    st.text(max_size=50).filter(lambda text: not is_json(text)).map(str.encode),
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()).map(lambda v: json.dumps(v).encode()),
    st.sampled_from([b"NaN", b"Infinity", b"1e999", b'"\\ud800"', b"[]", b"{}", b"[null]"]),
    st.sampled_from(sorted(WRONG)).flatmap(wrong_event),
)  # fmt: skip


def event(number=1, **fields):
    return json.dumps({"name": "tap", "event_id": f"e{number}", **fields}).encode()


def counted(queue):
    """Everything that ever came in, whatever became of it."""
    books = queue.books
    return books.received + sum(books.refused.values())


@pytest.fixture
def cap():
    return 64 * 1024 * 1024


@pytest.fixture
def queue(tmp_path, cap):
    queue = EventQueue.open(tmp_path, max_bytes=cap)
    yield queue
    queue.close()


@pytest.fixture(params=list(RIGS))
def rig(request, door, tmp_path):
    rig = RIGS[request.param](
        door=door, directory=tmp_path, broker=lambda: request.getfixturevalue("broker")
    )
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


def test_what_is_acknowledged_is_on_the_disk(rig, queue, tmp_path):
    told = {rig.send(event(number)) for number in range(20)}
    until(lambda: len(rig.seen) == 20, "20 acknowledgements")
    assert told == {None if rig.keeps else "accepted"}
    assert [received >= acknowledged for acknowledged, received in rig.seen] == [True] * 20
    assert [e.event_id for e in events(tmp_path)] == [f"e{number}" for number in range(20)]


def test_malformed_payloads_are_told_or_kept_and_counted_and_the_source_lives(rig, queue, tmp_path):
    @settings(
        max_examples=MALFORMED,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed)
    @example(b"")
    @example(b"\x00\xff\xfe" * 70_000)
    @example(b" " * 200_000)
    @example(b"[" * 200_000)
    @example(b'{"name":"tap","params":{"x":"' + b"x" * 200_000 + b'"}}')
    @example(b'{"events":[{"name":"tap"}],"client_id":7.5}')
    def one_more(payload):
        fates.add(rig.fate(payload))
        before, dead = counted(queue), queue.books.dead
        told = rig.send(payload)
        until(lambda: counted(queue) > before, "the count of a malformed payload")
        assert counted(queue) == before + 1
        assert (told, queue.books.dead - dead) == rig.fate(payload)

    fates = set()
    one_more()
    assert fates == rig.fates
    rig.send(event("good"))
    until(lambda: [e.event_id for e in events(tmp_path)] == ["egood"], "the event afterwards")
    assert queue.books.balanced


@pytest.mark.parametrize("cap", [4 * 1024 * 1024])
def test_a_full_queue_is_told_and_what_it_kept_out_comes_in_later(rig, queue, make_event, tmp_path):
    def some(size):
        number = 20 if size else 1
        return [make_event("filler", params={"x": "x" * size}) for _ in range(number)]

    fill(queue, some)
    before, statements = queue.books.received, []
    queue._putter.set_trace_callback(statements.append)
    told = rig.send(event("late"))
    until(lambda: "COMMIT" in statements, "the attempt to put it")
    queue._putter.set_trace_callback(None)
    assert (told, queue.books.received) == (None if rig.keeps else "full", before)
    # A source that keeps what was sent has lost nothing.
    assert queue.books.refused == ({} if rig.keeps else {"full": 1})

    queue.ack_many([row.id for row in queue.lease("main", limit=25)])
    if not rig.keeps:
        assert rig.send(event("late")) == "accepted"
    until(lambda: rig.seen, "the acknowledgement once there is room")
    assert rig.seen == [(1, before + 1)]
    assert events(tmp_path)[-1].event_id == "elate"


def test_a_stop_in_the_middle_of_traffic_loses_nothing_that_was_acknowledged(rig, queue, tmp_path):
    numbers, done = itertools.count(), threading.Event()
    promised: list[str] = []

    def talk():
        while not done.is_set():
            event_id = f"{next(numbers)}-{uuid.uuid4().hex}"
            if rig.send(json.dumps({"name": "tap", "event_id": event_id}).encode()) in (
                None,
                "accepted",
            ):
                promised.append(event_id)

    talkers = [threading.Thread(target=talk) for _ in range(3)]
    for talker in talkers:
        talker.start()
    try:
        until(lambda: len(promised) >= 50, "traffic")
        rig.stop()
    finally:
        done.set()
        for talker in talkers:
            talker.join()
    assert len(rig.seen) <= rig.on_disk()
    if not rig.keeps:
        assert set(promised) <= {e.event_id for e in events(tmp_path)}
    rig.start()
    until(lambda: set(promised) <= {e.event_id for e in events(tmp_path)}, "what was promised")
    assert all(received >= acknowledged for acknowledged, received in rig.seen)
    assert queue.books.balanced


def test_the_stream_and_the_events_own_priority_travel(rig, tmp_path):
    rig.send(event(1, priority="high"), stream="main")
    rig.send(event(2, priority="high"), stream="second")
    until(lambda: len(events(tmp_path)) == 2, "both events")
    found = {(e.event_id, e.stream, e.priority) for e in events(tmp_path)}
    assert found == {("e1", "main", Priority.HIGH), ("e2", "second", Priority.HIGH)}


def test_an_array_is_taken_in_part_and_a_body_whole(rig, queue, tmp_path):
    rig.send(b'[{"name":"a"},{"nome":"b"},{"name":"c"}]')
    until(lambda: counted(queue) == 3, "the array")
    assert [e.name for e in events(tmp_path)] == ["a", "c"]
    rig.send(b'{"client_id":"1.1","events":[{"name":"d"},{"nome":"e"}]}')
    until(lambda: counted(queue) >= 4, "the body")
    assert [e.name for e in events(tmp_path)] == ["a", "c"]
    assert queue.books.balanced
