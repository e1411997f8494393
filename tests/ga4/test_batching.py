"""Whatever is put, every event leaves in exactly one request, which mixes nothing and is full.

On the real queue and the real shipper; only the network is a list.
"""

import json
from dataclasses import replace
from itertools import groupby, pairwise
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import jsontext
from agent.delivery.transport import Exchange
from agent.event import Priority, Sender
from agent.ga4.outcome import Response
from agent.ga4.request import BODY_LIMIT, EVENTS_MAX
from tests.delivery.stage import CAP, Stage, TestQueue, stream

URL = "http://127.0.0.1:1"
STREAMS = {"G-A": "a", "G-B": "b"}
LATE_US = 80 * 3_600_000_000

SENDERS = st.builds(
    Sender,
    client_id=st.sampled_from(["1.1", "2.2"]),
    user_id=st.sampled_from([None, "u"]),
    consent=st.sampled_from([{}, {"ad_user_data": "DENIED"}, {"ad_user_data": "GRANTED"}]),
    user_properties=st.sampled_from([{}, {"tier": {"value": "gold"}}]),
)
EVENTS = st.fixed_dictionaries(
    {
        "stream": st.sampled_from(["a", "b"]),
        "sender": st.integers(0, 2),
        "priority": st.sampled_from([Priority.NORMAL] * 4 + [Priority.HIGH, Priority.LOW]),
        "age_us": st.sampled_from([0, 0, 0, 0, 0, LATE_US]),
        "pad": st.sampled_from([0, 0, 0, 0, 4_000, 30_000, 64_000, 129_000]),
    }
)


class Wire:
    """Takes requests, or answers with one of the troubles first. Notes what was taken."""

    def __init__(self, troubles):
        self.taken = []
        self._troubles = list(troubles)

    def post(self, request):
        status = self._troubles.pop() if self._troubles else 204
        if status == 204:
            self.taken.append(request)
        return Exchange(Response(status=status, empty=True), len(request.body), 1)

    def close(self):
        """Nothing to close."""


def put(stage, plans, senders):
    """Put the planned events; each with its number as a param."""
    events = []
    for number, plan in enumerate(plans):
        made = stage.event("e", stream=plan["stream"], priority=plan["priority"])
        events.append(
            replace(
                made,
                sender=senders[plan["sender"] % len(senders)],
                stamp=replace(made.stamp, wall_us=made.stamp.wall_us - plan["age_us"]),
                params={"number": number, "pad": "x" * plan["pad"]},
            )
        )
    for start in range(0, len(events), 20):
        stage.queue.put_many(events[start : start + 20])
    return events


def deliver(directory, plans, senders, troubles):
    """The events, the requests that were taken, and the number of dead letters."""
    wire = Wire(troubles)
    queue = TestQueue.open(directory, max_bytes=CAP)
    stage = Stage(emulator=SimpleNamespace(url=URL), queue=queue, directory=directory)
    events = put(stage, plans, senders)
    shipper = stage.shipper(
        stream(URL, name="a", measurement_id="G-A"),
        stream(URL, name="b", measurement_id="G-B"),
        transport=wire,
    )
    while queue.books.queued:
        shipper.flush()
        shipper.ship_once()
    books = queue.books
    queue.close()
    assert books.balanced
    return events, wire.taken, books.dead


def numbers(request):
    return [event["params"]["number"] for event in json.loads(request.body)["events"]]


def untimed(body):
    """The top level, without the times that user properties get."""
    properties = body.get("user_properties", {}).values()
    for each in properties:
        each.pop("timestamp_micros")
    return {key: value for key, value in body.items() if key != "events"}


@settings(max_examples=40, deadline=None)
@given(
    plans=st.lists(EVENTS, min_size=1, max_size=90),
    senders=st.lists(SENDERS, min_size=1, max_size=3, unique_by=lambda sender: sender.key),
    troubles=st.lists(st.sampled_from([503, 429, 204]), max_size=6),
)
def test_every_event_is_in_one_request_that_mixes_nothing_and_is_full(
    tmp_path_factory, plans, senders, troubles
):
    directory = tmp_path_factory.mktemp("queue")
    events, taken, dead = deliver(directory, plans, senders, troubles)
    everything = [number for request in taken for number in numbers(request)]
    late = {number for number, plan in enumerate(plans) if plan["age_us"]}
    assert sorted(everything) == sorted(set(range(len(events))) - late)
    assert dead == len(late)
    for request in taken:
        check_one(request, events)
    check_together(taken, events)


def check_one(request, events):
    """Its limits, its order, and that all its events belong together."""
    body, own = json.loads(request.body), numbers(request)
    assert 1 <= len(own) <= EVENTS_MAX
    assert len(request.body) < BODY_LIMIT
    assert own == sorted(own)
    assert {events[number].stream for number in own} == {STREAMS[request.query["measurement_id"]]}
    shared = untimed(body)
    assert all(events[number].sender.body == shared for number in own)
    times = [event["timestamp_micros"] for event in body["events"]]
    assert all(before < after for before, after in pairwise(times))


def check_together(taken, events):
    """Of what belongs together each request continues the one before, which had no room for it."""

    def together(request):
        first = events[numbers(request)[0]]
        return first.stream, first.sender.key, int(first.priority)

    for _, group in groupby(sorted(taken, key=together), key=together):
        for before, after in pairwise(group):
            assert numbers(before)[-1] < numbers(after)[0]
            following = jsontext.dumps(json.loads(after.body)["events"][0])
            is_full = len(numbers(before)) == EVENTS_MAX
            assert is_full or len(before.body) + 1 + len(following) >= BODY_LIMIT
