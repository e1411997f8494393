"""The door: one way in, three answers, each given after the commit."""

import json
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Clock
from agent.event import UNASSIGNED, Priority, RawMessage, Sender, Stamp, Stream
from agent.ga4.request import BODY_LIMIT
from agent.intake.attribution import Device
from agent.intake.door import CRASHED, Accepted, Door, Full, Refused
from agent.intake.message import Message
from agent.intake.parse import RAW_MAX, Shape
from agent.queue.entries import SourceState
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.queue.reader import read_snapshot
from agent.stepwise import DEATHS, TOUCHING_FILE, Condemned, Stepwise
from tests.intake.rigs import fill_up
from tests.intake.stored import events, letters
from tests.sorters import reception, sorter
from tests.waiting import until

TAP = {"name": "tap"}


def say(value, **fields):
    """A message as a publisher sends it who waits for an answer; bytes are taken as they are."""
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Message(**{"source": "http", "payload": payload} | fields)


def throw(value, **fields):
    """A message whose publisher waits for no answer."""
    return say(value, **{"source": "mqtt", "answerable": False} | fields)


@pytest.fixture
def small_queue(tmp_path):
    """Of the least size, and full."""
    directory = tmp_path / "small"
    directory.mkdir()
    queue = EventQueue.open(directory, max_bytes=4 * 1024 * 1024)
    yield queue
    queue.close()


@pytest.fixture
def full_queue(small_queue, make_event):
    fill_up(small_queue, make_event)
    return small_queue


def test_a_dead_letter_says_why_and_repeats_nothing(door, tmp_path):
    door.admit(throw({"nome": "canary-7731"}))
    door.admit(throw(b'{"name": "canary-7731'))
    first, second = letters(tmp_path)
    assert first.why.startswith("found the unknown key 'nome', expected ")
    assert second.why.startswith("found no JSON: ")
    assert "canary" not in first.why + second.why


def test_what_has_no_stream_here_keeps_all_that_it_said_for_who_mends_it(door, tmp_path):
    stamp = {"wall_us": 1_700_000_000_000_000, "boot_us": 5, "boot_id": "old", "trusted": True}
    said = {**TAP, "event_id": "e1", "timestamp_micros": 7, "priority": "low", "client_id": "1.1"}
    said |= {"stream": "gone", "stamp": stamp, "complete": True}
    door.admit(throw(said, shape=Shape.SPOOL))
    [letter] = letters(tmp_path)
    assert json.loads(letter.payload) == said
    assert letter.stamp == Stamp(**stamp)


# -- three answers ------------------------------------------------------------------------------


def test_an_event_is_accepted_and_on_the_disk_when_the_answer_is_given(door, tmp_path):
    assert door.admit(say(TAP)) == Accepted(1)
    snapshot = read_snapshot(tmp_path)
    assert (snapshot.books.received, snapshot.books.queued) == (1, 1)
    assert snapshot.oldest == events(tmp_path)[0]
    assert snapshot.oldest.name == "tap"


def test_nothing_is_answered_while_the_commit_is_still_to_come(door, queue, tmp_path):
    answers = []
    asking = threading.Thread(target=lambda: answers.append(door.admit(say(TAP))))
    with queue.tran_lock:
        asking.start()
        # The commit waits for the lock that is held here: the queue says that it is at it.
        until(queue.committing_s, "the commit")
        assert answers == []
        assert read_snapshot(tmp_path).books.received == 0
    asking.join()
    assert answers == [Accepted(1)]
    assert read_snapshot(tmp_path).books.received == 1


def test_what_is_no_event_is_refused_with_the_reason(door, queue, tmp_path):
    answer = door.admit(say({"nome": "tap"}))
    assert isinstance(answer, Refused)
    assert [reason.code for reason in answer.reasons] == ["VALUE_INVALID"]
    assert queue.books.refused == {"invalid": 1}
    assert events(tmp_path) == []


def test_a_full_queue_takes_nothing_and_says_so(make_door, full_queue):
    before = full_queue.books
    answer = make_door(queue=full_queue).admit(say([TAP, TAP]))
    assert answer == Full("the queue is full")
    assert full_queue.books.received == before.received
    assert full_queue.books.refused == {"full": 2}
    assert full_queue.books.balanced


def test_a_disk_that_does_not_take_it_is_told_like_a_full_queue(make_door):
    class Broken:
        def __init__(self):
            self.refused = []

        def put_many(self, _items, **_beside):
            raise StorageError("disk_full", "cannot write the queue: the disk is full")

        def note_refused(self, reason, number=1):
            self.refused.append((reason, number))

    broken = Broken()
    answer = make_door(queue=broken).admit(say(TAP))
    assert answer == Full("cannot write the queue: the disk is full")
    assert broken.refused == [("full", 1)]


def test_a_full_queue_still_tells_what_is_wrong_from_what_comes_too_early(make_door, full_queue):
    door = make_door(queue=full_queue)
    answers = door.admit_many([say(TAP), say({"nome": 1}), say(TAP)])
    assert [type(answer) for answer in answers] == [Full, Refused, Full]
    assert full_queue.books.refused == {"full": 2, "invalid": 1}


def test_many_messages_are_answered_in_their_order_and_share_one_commit(door, queue):
    statements = []
    queue._putter.set_trace_callback(statements.append)
    answers = door.admit_many([say(TAP), say(b"?"), say([TAP, TAP]), say([TAP, 7])])
    queue._putter.set_trace_callback(None)
    assert [getattr(answer, "number", None) for answer in answers] == [1, None, 2, 1]
    assert statements.count("COMMIT") == 1


def test_no_messages_have_no_answers_and_cost_no_commit(door, queue):
    statements = []
    queue._putter.set_trace_callback(statements.append)
    assert door.admit_many([]) == []
    assert isinstance(door.admit(say(b"?")), Refused)
    queue._putter.set_trace_callback(None)
    assert statements == []


# -- bodies and arrays --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", Shape)
def test_a_body_is_taken_whole_or_not_at_all(door, queue, tmp_path, shape):
    good = {"client_id": "1.1", "events": [{"name": "a"}, {"name": "b"}]}
    bad = {"client_id": "1.1", "events": [{"name": "c"}, {"name": ""}, {"name": "d"}]}
    assert door.admit(say(good, shape=shape)) == Accepted(2)
    answer = door.admit(say(bad, shape=shape))
    assert isinstance(answer, Refused)
    assert [reason.field_path for reason in answer.reasons] == ["events[1].name"]
    assert [event.name for event in events(tmp_path)] == ["a", "b"]
    assert queue.books.refused == {"invalid": 3}


def test_of_an_array_what_is_good_is_taken_and_what_is_not_is_listed(door, queue, tmp_path):
    answer = door.admit(say([{"name": "a"}, 7, {"name": "c"}, {"name": ""}]))
    assert answer.number == 2
    assert [reason.field_path for reason in answer.rejected] == ["[1]", "[3].name"]
    assert [event.name for event in events(tmp_path)] == ["a", "c"]
    assert queue.books.refused == {"invalid": 2}


def test_an_array_without_a_good_event_is_refused(door, queue):
    answer = door.admit(say([7, {"name": ""}]))
    assert [reason.field_path for reason in answer.reasons] == ["[0]", "[1].name"]
    assert queue.books.refused == {"invalid": 2}


# -- nobody waits for the answer ----------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"{", b'"x"', b"[]", b"[" * 50_000])
def test_what_is_malformed_is_kept_for_people_if_nobody_waits(door, queue, tmp_path, payload):
    assert door.admit(throw(payload)) == Accepted(1)
    (letter,) = letters(tmp_path)
    assert (letter.source, letter.reason) == ("mqtt", "malformed")
    assert letter.payload == payload[:RAW_MAX]
    assert letter.stamp.trusted
    assert (queue.books.received, queue.books.dead, queue.books.refused) == (1, 1, {})


def test_of_a_dead_letter_8_kib_are_kept(door, tmp_path):
    payload = bytes(range(256)) * 1000
    door.admit(throw(payload))
    assert letters(tmp_path)[0].payload == payload[: 8 * 1024]


def test_of_an_array_nobody_waits_for_each_bad_element_is_kept_by_itself(door, queue, tmp_path):
    assert door.admit(throw([{"name": "a"}, {"nome": 1}, {"name": "c"}, 7])) == Accepted(4)
    assert [event.name for event in events(tmp_path)] == ["a", "c"]
    assert [(x.reason, x.payload) for x in letters(tmp_path)] == [
        ("invalid", b'{"nome":1}'),
        ("invalid", b"7"),
    ]
    assert (queue.books.received, queue.books.queued, queue.books.dead) == (4, 2, 2)


def test_an_element_that_cannot_be_sent_is_kept_without_its_neighbours(door, tmp_path):
    """Else the dead letter would hold events that were taken, to be sent a second time."""
    large = {"name": "b", "params": {"x": "x" * BODY_LIMIT}}
    door.admit(throw([{"name": "a"}, large]))
    assert [event.name for event in events(tmp_path)] == ["a"]
    assert letters(tmp_path)[0].payload.startswith(b'{"name":"b","params":{"x":"xxx')


def test_a_body_nobody_waits_for_is_kept_whole_if_one_of_its_events_is_bad(door, queue, tmp_path):
    message = throw({"client_id": "1.1", "events": [TAP, {"name": ""}]})
    assert door.admit(message) == Accepted(1)
    assert events(tmp_path) == []
    assert [(x.reason, x.payload) for x in letters(tmp_path)] == [("invalid", message.payload)]
    assert (queue.books.received, queue.books.dead, queue.books.refused) == (1, 1, {})


@pytest.mark.parametrize("payload", [b"?" * RAW_MAX, json.dumps(TAP).encode()])
def test_what_nobody_waits_for_is_not_refused_by_a_full_queue_for_its_source_keeps_it(
    make_door, full_queue, payload
):
    before = full_queue.books.received
    for _ in range(3):
        assert isinstance(make_door(queue=full_queue).admit(throw(payload)), Full)
    assert full_queue.books.refused == {}
    assert full_queue.books.received == before


# -- more than the queue could ever hold --------------------------------------------------------

HUGE = [{"name": "x", "params": {"x": "x" * 100_000}}] * 42


def test_what_even_an_empty_queue_could_not_hold_is_refused_for_good(make_door, small_queue):
    """An answer "full" would have its publisher try it for ever."""
    answer = make_door(queue=small_queue).admit(say(HUGE))
    assert isinstance(answer, Refused)
    assert small_queue.books.refused == {"too_large": 1}
    assert small_queue.books.received == 0


def test_nor_may_it_block_a_source_whose_publisher_waits_for_no_answer(
    make_door, small_queue, tmp_path
):
    door = make_door(queue=small_queue)
    assert door.admit(throw(HUGE)) == Accepted(1)
    (letter,) = letters(tmp_path / "small")
    assert (letter.reason, len(letter.payload)) == ("too_large", RAW_MAX)
    assert small_queue.books.balanced


def test_messages_that_are_too_many_only_together_are_taken_one_by_one(make_door, small_queue):
    door = make_door(queue=small_queue)
    answers = door.admit_many([say(TAP), say(HUGE), throw(HUGE), say(HUGE[:2]), say(b"?")])
    assert [type(answer) for answer in answers] == [Accepted, Refused, Accepted, Accepted, Refused]
    assert (small_queue.books.queued, small_queue.books.dead) == (3, 1)
    assert small_queue.books.refused == {"invalid": 1, "too_large": 1}


# -- what the door adds -------------------------------------------------------------------------


def test_an_unnamed_event_gets_the_device_s_sender(door, device, streams, tmp_path):
    door.admit(say({**TAP, "user_id": "u"}))
    (event,) = events(tmp_path)
    assert event.sender == Sender(
        client_id=device.client_id,
        user_id="u",
        user_properties={"tier": {"value": "flagship"}},
    )


def test_on_an_app_stream_the_device_is_its_app_instance(door, device, tmp_path):
    door.admit(say(TAP, stream="app"))
    (event,) = events(tmp_path)
    assert (event.stream, event.sender.client_id) == ("app", None)
    assert event.sender.app_instance_id == device.app_instance_id


@pytest.mark.parametrize(
    "value", [{**TAP, "client_id": "9.9"}, {"client_id": "9.9", "events": [TAP]}]
)
def test_to_an_id_that_somebody_else_made_nothing_is_added_but_params(make_door, tmp_path, value):
    make_door(params={"site": "store-12"}).admit(say(value))
    (event,) = events(tmp_path)
    assert event.sender == Sender(client_id="9.9")
    assert event.params == {"site": "store-12"}


def test_params_of_the_device_stand_back_behind_those_of_the_event(make_door, tmp_path):
    door = make_door(params={"site": "store-12", "floor": 1})
    door.admit(say({**TAP, "params": {"floor": 2, "x": 3}}))
    assert events(tmp_path)[0].params == {"site": "store-12", "floor": 2, "x": 3}


def test_what_was_said_is_stored_as_it_was_said(door, tmp_path):
    said = {
        "name": "tap",
        "event_id": "mine",
        "session": "start",
        "actor": "human",
        "priority": "low",
        "timestamp_micros": 5,
    }
    door.admit(say(said))
    (event,) = events(tmp_path)
    assert (event.event_id, event.session, event.actor) == ("mine", "start", "human")
    assert (event.priority, event.time_us, event.stream) == (Priority.LOW, 5, "main")


def test_an_event_s_own_priority_goes_before_its_source_s(door, tmp_path):
    door.admit(say([TAP, {**TAP, "priority": "high"}], priority=Priority.LOW))
    assert [event.priority for event in events(tmp_path)] == [Priority.LOW, Priority.HIGH]


def test_events_of_one_message_have_the_clock_s_stamp_a_microsecond_apart(make_door, tmp_path):
    times = iter(range(100))
    clock = Clock(
        wall=lambda: 10 + next(times), boot=lambda: 7, boot_id="b", synchronised=lambda: False
    )
    make_door(clock=clock).admit(say([TAP, TAP]))
    first, second = (event.stamp for event in events(tmp_path))
    assert (first.boot_us, first.trusted) == (7, False)
    assert (second.wall_us, second.boot_us) == (first.wall_us + 1, first.boot_us + 1)


def test_events_without_an_id_get_one_of_their_own(door, tmp_path):
    door.admit_many([say([TAP] * 25), say({"events": [TAP] * 25}), throw(TAP)])
    assert len({event.event_id for event in events(tmp_path)}) == 51


# -- streams ------------------------------------------------------------------------------------


def test_the_first_stream_is_the_default(make_door, streams, tmp_path):
    backwards = dict(reversed(streams.items()))
    make_door(streams=backwards).admit(say(TAP))
    assert events(tmp_path)[0].stream == next(iter(backwards))


def test_without_any_stream_events_are_kept_unassigned(make_door, tmp_path):
    assert make_door(streams={}).admit(say([TAP, {**TAP, "client_id": "9.9"}])) == Accepted(2)
    assert {event.stream for event in events(tmp_path)} == {UNASSIGNED}


def test_an_unknown_stream_is_refused_or_kept_for_people(door, tmp_path):
    answer = door.admit(say(TAP, stream="gone"))
    assert "'gone'" in answer.reasons[0].description
    assert door.admit(throw(TAP, stream="gone")) == Accepted(1)
    assert [letter.reason for letter in letters(tmp_path)] == ["invalid"]
    assert events(tmp_path) == []


@pytest.mark.parametrize(
    ("stream", "value", "missing"),
    [
        ("app", {**TAP, "client_id": "9.9"}, "app_instance_id"),
        ("main", {**TAP, "app_instance_id": "f" * 32}, "client_id"),
    ],
)
def test_a_stream_takes_only_senders_of_its_kind(door, queue, stream, value, missing):
    (reason,) = door.admit(say(value, stream=stream)).reasons
    assert (reason.field_path, reason.code) == (missing, "VALUE_REQUIRED")
    assert reason.description.endswith(f" {missing}.")
    assert queue.books.refused == {"invalid": 1}


def test_an_app_stream_needs_an_app_instance_id_from_somewhere(make_door):
    nobody = Device(client_id="1.1")
    door = make_door(device=nobody)
    assert door.admit(say(TAP, stream="app")).reasons[0].field_path == "app_instance_id"
    assert door.admit(say({**TAP, "app_instance_id": "f"}, stream="app")) == Accepted(1)


def test_an_event_too_large_for_a_request_of_its_own_is_refused(door, queue, tmp_path):
    large = {"name": "b", "params": {"x": "x" * BODY_LIMIT}}
    (reason,) = door.admit(say(large)).reasons
    assert reason.code == "VALUE_OUT_OF_BOUNDS"
    assert str(BODY_LIMIT) in reason.description
    assert door.admit(say([TAP, large])).number == 1
    assert isinstance(door.admit(say({"events": [TAP, large]})), Refused)
    assert len(events(tmp_path)) == 1


def test_what_the_device_adds_counts_towards_the_size(make_door):
    door = make_door(params={"site": "x" * 1000})
    almost = {"name": "b", "params": {"x": "x" * (BODY_LIMIT - 900)}}
    assert isinstance(door.admit(say(almost)), Refused)
    assert isinstance(make_door().admit(say(almost | {"params": {"x": "x" * 100}})), Accepted)


# -- state of sources ---------------------------------------------------------------------------


def test_the_source_s_state_is_committed_with_its_events_or_not_at_all(
    make_door, full_queue, door, queue
):
    state = (SourceState("spool", "file", "a.json"),)
    door.admit(say(TAP, state=state))
    assert queue.source_state("spool") == {"file": "a.json"}
    assert isinstance(make_door(queue=full_queue).admit(say(TAP, state=state)), Full)
    assert full_queue.source_state("spool") == {}


def test_the_state_of_a_message_that_was_refused_is_committed_too(door, queue):
    """The source has dealt with it: it must not meet it again after the next start."""
    door.admit(say(b"?", state=(SourceState("spool", "file", "a.json"),)))
    assert queue.source_state("spool") == {"file": "a.json"}


# -- step by step -------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [say, throw])
def test_a_message_that_killed_the_process_is_set_aside_unread(make_door, queue, tmp_path, made):
    killer = made({"name": "killer"})
    door = make_door(condemned=Condemned([killer.digest]))
    answers = door.admit_many([killer, say(TAP)])
    assert [type(answer) for answer in answers] == [
        Refused if killer.answerable else Accepted,
        Accepted,
    ]
    assert [(x.source, x.reason, x.payload) for x in letters(tmp_path)] == [
        (killer.source, "crashed", killer.payload)
    ]
    assert [event.name for event in events(tmp_path)] == ["tap"]
    assert queue.books.balanced


def test_a_message_is_set_aside_once_for_another_with_its_content_may_be_innocent(
    make_door, queue, tmp_path
):
    killer = throw(TAP)
    queue.put_many([], state=[SourceState(CRASHED, killer.digest, "")])
    door = make_door(condemned=Condemned(queue.source_state(CRASHED)))
    door.admit(killer)
    assert events(tmp_path) == []
    assert queue.source_state(CRASHED) == {}
    door.admit(killer)
    assert [event.name for event in events(tmp_path)] == ["tap"]


def test_a_message_that_could_not_be_set_aside_is_so_at_the_next_attempt(make_door, full_queue):
    killer = throw(b"?" * RAW_MAX)
    full_queue.put_many([], state=[SourceState(CRASHED, killer.digest, "")])
    door = make_door(queue=full_queue, condemned=Condemned([killer.digest]))
    assert isinstance(door.admit(killer), Full)
    assert full_queue.source_state(CRASHED) == {killer.digest: ""}
    full_queue.ack_many([row.id for row in full_queue.lease("main", limit=25)])
    assert door.admit(killer) == Accepted(1)
    assert (full_queue.books.dead, full_queue.source_state(CRASHED)) == (1, {})


def test_the_digest_is_of_exactly_this_message_and_tells_nothing_of_it():
    digests = {say(TAP).digest, throw(TAP).digest, say({**TAP, "x": 1}).digest}
    assert len(digests) == 3
    assert say(TAP).digest == say(TAP, stream="app").digest
    assert all(len(digest) == 32 and int(digest, 16) for digest in digests)


@pytest.fixture
def steps(tmp_path):
    return Stepwise(directory=tmp_path, deaths=DEATHS)


class Watching:
    """A queue that notes what is being touched whenever it is called."""

    def __init__(self, queue, directory):
        self._queue = queue
        self._file = directory / TOUCHING_FILE
        self.touched = []

    def put_many(self, items, **beside):
        self.touched.append(self._file.read_text())
        self._queue.put_many(items, **beside)

    def note_refused(self, reason, number=1):
        self.touched.append(self._file.read_text())
        self._queue.note_refused(reason, number)


def test_step_by_step_each_message_is_named_before_it_is_touched(make_door, queue, steps, tmp_path):
    watching = Watching(queue, tmp_path)
    door = make_door(queue=watching, stepwise=steps)
    messages = [say(TAP), say(b"?"), say([TAP, TAP])]
    answers = door.admit_many(messages)
    assert [type(answer) for answer in answers] == [Accepted, Refused, Accepted]
    assert watching.touched == [f"message:{message.digest}" for message in messages]
    assert not (tmp_path / TOUCHING_FILE).exists()


def test_step_by_step_the_name_is_written_before_the_message_is_parsed(make_door, steps, tmp_path):
    found = []

    class Payload(bytes):
        """Bytes that look who touches them: the parser decodes."""

        def decode(self, *how):
            found.append((tmp_path / TOUCHING_FILE).read_text())
            return super().decode(*how)

    message = Message(source="http", payload=Payload(b'{"name":"tap"}'))
    make_door(stepwise=steps).admit(message)
    assert found == [f"message:{message.digest}"]


def test_the_name_of_what_killed_stays_behind(make_door, steps, tmp_path):
    def die():
        raise SystemError("killed")

    message = say(TAP)
    with pytest.raises(SystemError):
        make_door(stepwise=steps, new_id=die).admit(message)
    assert (tmp_path / TOUCHING_FILE).read_text() == f"message:{message.digest}"


def test_as_a_rule_nothing_is_written_down(make_door, queue, tmp_path):
    class Looking(Watching):
        def put_many(self, items, **beside):
            self.touched.append(self._file.exists())
            self._queue.put_many(items, **beside)

    looking = Looking(queue, tmp_path)
    make_door(queue=looking).admit(say(TAP))
    assert looking.touched == [False]


# -- the books ----------------------------------------------------------------------------------

elements = st.sampled_from(
    [
        TAP,
        {**TAP, "client_id": "9.9"},
        {**TAP, "app_instance_id": "f"},
        {**TAP, "priority": "high"},
        {"nome": 1},
        {"name": ""},
        7,
        None,
        {"name": "large", "params": {"x": "x" * BODY_LIMIT}},
    ]
)
payloads = st.one_of(
    st.binary(max_size=20),
    elements,
    st.lists(elements, max_size=4),
    st.fixed_dictionaries({"events": st.lists(elements, max_size=4)}),
    st.fixed_dictionaries({"client_id": st.just("9.9"), "events": st.lists(elements, max_size=30)}),
)
messages = st.builds(
    say,
    payloads,
    source=st.sampled_from(["http", "mqtt"]),
    shape=st.sampled_from(Shape),
    stream=st.sampled_from([None, "main", "app", "gone"]),
    answerable=st.booleans(),
)


def taken(answers):
    """How many events and dead letters were taken, by the answers alone."""
    return sum(answer.number for answer in answers if isinstance(answer, Accepted))


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(messages, max_size=5), max_size=4), step_by_step=st.booleans())
def test_the_books_balance_whatever_comes_in(batches, step_by_step):
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        queue = EventQueue.open(directory, max_bytes=4 * 1024 * 1024)
        door = Door(
            queue=queue,
            clock=Clock(boot_id="b", synchronised=lambda: False),
            sorter=sorter(
                streams={
                    "main": Stream(name="main", endpoint="https://x", measurement_id="G-1"),
                    "app": Stream(name="app", endpoint="https://x", firebase_app_id="1:2"),
                }
            ),
            reception=reception(queue),
            stepwise=Stepwise(directory=directory, deaths=DEATHS if step_by_step else 0),
            condemned=Condemned(),
        )
        answers = []
        for batch in batches:
            answered = door.admit_many(batch)
            assert len(answered) == len(batch)
            answers += zip(batch, answered, strict=True)
            check_books(queue, directory, [answer for _, answer in answers])
        for message, answer in answers:
            assert message.answerable or not isinstance(answer, Refused)
            assert isinstance(answer, Full | Accepted) or answer.reasons
        queue.close()


def check_books(queue, directory, answers):
    books = queue.books
    assert books.balanced
    assert books.received == taken(answers) == books.queued + books.dead
    assert (books.queued, books.dead) == (len(events(directory)), len(letters(directory)))
    assert all(
        isinstance(letter, RawMessage) and len(letter.payload) <= RAW_MAX
        for letter in letters(directory)
    )
    told = sum(len(a.rejected) for a in answers if isinstance(a, Accepted))
    told += sum(len(a.reasons) for a in answers if isinstance(a, Refused))
    assert books.refused.get("invalid", 0) >= told
