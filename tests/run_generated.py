"""Generated payloads through all that an event passes on its way: a program for a child process.

``python -m tests.run_generated SEED FIRST NUMBER`` takes each payload apart as the door does, writes
and reads what is stored, fills requests as the shipper does, and checks every answer, every row and
every request. What it counted it prints as JSON. At the first broken promise it stops, with the
payload's number. ``... SEED large BYTES`` does it with a few payloads of that size.
"""

import ctypes
import gc
import itertools
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import jsontext
from agent.anchor import Moment
from agent.clock import Clock
from agent.event import Event, InvalidEvent, RawMessage, Stamp, Stream
from agent.ga4.departure import LATE_US, Departing, Terms, departures
from agent.ga4.request import BODY_LIMIT, EVENTS_MAX, Request, build, fitting
from agent.ga4.rules.limits import PARAMS_MAX
from agent.ga4.validate import validate
from agent.ga4.violation import Code, Rule, Violation
from agent.intake.attribution import Attribution, Device
from agent.intake.duplicates import Window
from agent.intake.judging import Judge
from agent.intake.mapping import Rule as Subscribed
from agent.intake.message import Message
from agent.intake.parse import Shape
from agent.intake.reception import Reception
from agent.intake.sessions import Sessions
from agent.intake.sorting import Sorted, Sorter
from agent.queue import serializer
from agent.secret import Secret
from agent.topic import TopicFilter
from tests.generated import (
    CARD,
    EMAIL,
    HOUR_US,
    KEY,
    NOW_US,
    UNSPEAKABLE,
    Payload,
    facts,
    payload,
    very_large,
    very_many,
)

MODES = ("repair",) * 11 + ("strict",) * 5 + ("off",) * 4
CODES = frozenset(code.value for code in Code)
# Three modes over HTTP, then two from a broker: numbers of payloads whose `message` is that.
ONE_OF_EACH = (0, 11, 16, 20, 40)
BATCH = 2000  # payloads whose events are in the queue together
STEP_US = 250  # between two payloads
UPTIME_US = 240 * HOUR_US
LATER = (Rule.TIME_PAST, Rule.TIME_FUTURE)
ADDED = frozenset(("site", "event_id", "traffic_type", "session_id", "engagement_time_msec"))
STEERING = frozenset(("event_id", "session", "actor", "priority", "client_key"))
CARDS = (CARD, CARD.replace(" ", ""))
OWN_IDS = frozenset(("client_id", "app_instance_id"))
# What repair can always mend.
EASY = frozenset(("many_params", "many_items", "many_properties", "debug_mode"))
OF_EVENT = frozenset(("name", "params", "timestamp_micros", "events")) | STEERING
MACHINE = Device(
    client_id="111.222",
    app_instance_id="f" * 32,
    user_properties={"fleet": "north"},
    consent={"ad_user_data": "DENIED", "ad_personalization": "DENIED"},
    hardware={"operating_system": "Linux"},
    location={"continent_id": "150"},
)
COOKIES = "_ga=GA1.1.5.6; _ga_MAIN=GS2.1.s1790000000$o1; theme=dark"
TOPIC = "site/12/vend"


def rule(**texts: str) -> Subscribed:
    """A subscription's rule. Without ``name`` it is only put on events that say their own."""
    read = {
        "value": "{json.params.value?}",
        "items": {
            "from": "{json.params.items?}",
            "item_id": "{item.item_id?}",
            "price": "{item.price?}",
        },
    }
    return Subscribed.read(
        TopicFilter.read("site/+where/vend"),
        texts=texts,
        params={"where": "{where}"} | (read if "name" in texts else {}),
        user_properties={"fw": "{json.client_id?}"} if "name" in texts else {},
        clock="device",
    )


VENDING = rule(name="{json.name}", client_key="{json.client_key?}", time="{json.timestamp_micros?}")
PUT_UNDER = rule()


class Agent:
    """All that an event passes, without a disk and a network; one stream for each mode and kind."""

    def __init__(self, *, trusted: bool) -> None:
        """``trusted``: whether NTP vouches for its clock; if not, sessions are found late."""
        self._passed_us = 0
        numbers = itertools.count(1)
        self.clock = Clock(
            wall=lambda: NOW_US + self._passed_us,
            boot=lambda: UPTIME_US + self._passed_us,
            boot_id="b",
            synchronised=lambda: trusted,
        )
        self.streams = {name: _stream(name) for name in _names()}
        self.judges = {n: Judge(kind=n.split("_")[1], mode=n.split("_")[0]) for n in self.streams}
        self.sorter = Sorter(
            streams=self.streams,
            judges=self.judges,
            attribution=Attribution(device=MACHINE, salt=Secret("a salt that is long enough")),
            params={"site": "riga-1"},
            new_id=lambda: f"e{next(numbers):x}",
            local=self.clock.stamp_of,
            now_us=self.clock.now_us,
        )
        self.sessions = Sessions(
            load=lambda _: None, boot_id="b", timeout_s=120, longest_s=86_400, per_sitting=False,
            new_client_id=lambda _: "1.1", clients=100,
        )  # fmt: skip
        self.reception = Reception(
            window=Window(load=lambda _: (), size=1000), sessions=self.sessions
        )

    def take(self, message: Message) -> Sorted:
        """What the door makes of it."""
        self._passed_us += STEP_US
        part = self.sorter.sort(message, self.clock.stamp())
        with self.reception.claim([message], [part]) as claim:
            received = self.reception.receive([part], claim)
            claim.committed()
        return received.parts[0]

    def terms(self, stream: Stream) -> Terms:
        """On what terms events leave now."""
        return Terms(
            stream=stream,
            now_us=self.clock.now_us(),
            when=_when,
            session_id=self._session_id,
        )

    def _session_id(self, event: Event) -> int:
        assert event.sitting is not None
        start = event.sitting.start
        return self.sessions.resolve(event.sitting.client, start, lambda at: _when(at).us)[0]


def _when(stamp: Stamp) -> Moment:
    """The clock is right, but of every second stamp nobody can say so exactly."""
    return Moment(stamp.wall_us, 90_000_000 * (stamp.boot_us % 2))


def _names() -> list[str]:
    return [f"{mode}_{kind}" for mode in dict.fromkeys(MODES) for kind in ("web", "app")]


def _stream(name: str) -> Stream:
    app = name.endswith("app")
    return Stream(
        name=name,
        endpoint="http://127.0.0.1:1",
        measurement_id=None if app else "G-MAIN",
        firebase_app_id="1:2:android:3" if app else None,
        secret=Secret("shh"),
        late="restamp" if app else "dead",
        traffic_type="internal" if app else None,
    )


# -- in ---------------------------------------------------------------------------------------


def message(each: Payload, number: int) -> Message:
    """The payload as one of the sources hands it in."""
    mode = MODES[number % len(MODES)]
    stream = f"{mode}_{'app' if each.app else 'web'}"
    way = number // len(MODES) % 5
    if way == 1:
        return Message(
            source="mqtt",
            payload=each.raw,
            stream=stream,
            topic=TOPIC,
            local=False,
            answerable=False,
        )
    if way == 2 and each.said is None:
        how = VENDING if each.form == "single" else PUT_UNDER
        return Message(
            source="mqtt", payload=each.raw, stream=stream, topic=TOPIC, answerable=False, rule=how
        )
    return Message(
        source="http",
        payload=each.raw,
        stream=stream,
        shape=Shape.BODY if each.form == "body" else Shape.ANY,
        cookies="" if each.said is not None or number % 7 else COOKIES,
    )


def check_reason(error: InvalidEvent) -> None:
    """A path, a sentence and one of Google's codes; and nothing that was in a value."""
    assert isinstance(error.field_path, str)
    assert error.code in CODES
    assert 10 < len(error.description) < 600
    assert len(error.field_path) < 500
    assert str(error).isprintable()
    check_unspoken(str(error))


def check_unspoken(text: str) -> None:
    """Nothing that was planted in values."""
    for planted in UNSPEAKABLE:
        assert planted not in text, f"repeats {planted}"


def check_row(item: Event | RawMessage, each: Payload) -> None:
    """What is stored can be read again, and holds no key."""
    row = serializer.dumps(item)
    assert serializer.loads(row) == item
    if isinstance(item, RawMessage):
        check_unspoken(item.why)
        assert item.reason in ("malformed", "invalid")
        row = item.payload
    if each.kind == "hostile":
        return  # there a key can stand under any name
    assert KEY.encode() not in row
    if isinstance(item, Event):
        assert EMAIL.encode() not in row
        said = jsontext.canonical([item.params, item.sender.user_properties])
        assert not any(card in said for card in CARDS)


# -- what was valid ---------------------------------------------------------------------------


def check_unchanged(each: Payload, part: Sorted) -> None:
    """All of a valid message is stored as it was said, beside what the agent adds.

    Of 25 params one may go: for the traffic type, which keeps a test out of reports.
    """
    kinds = {name for name in part.counts if name.startswith("repaired.")}
    assert kinds <= {"repaired.agent_param_dropped", "repaired.param_dropped"}, kinds
    assert not part.rejected, [str(error) for error in part.rejected]
    said = events(each.said)
    assert len(part.stored) == len(said)
    for own, item in zip(said, part.stored, strict=True):
        check_same(own, item)


def events(said: Any) -> list[dict[str, Any]]:
    """Each event with what the body says around it."""
    if isinstance(said, list):
        return said
    around = {key: value for key, value in said.items() if key != "events"}
    return [around | event for event in said.get("events", [said])]


def check_same(said: Mapping[str, Any], item: Event | RawMessage) -> None:
    assert isinstance(item, Event)
    assert item.name == said["name"]
    params, own = dict(item.params), said.get("params", {})
    gone = own.keys() - params.keys()
    assert len(gone) <= (len(own) == PARAMS_MAX and "traffic_type" in params)
    kept = {name: value for name, value in own.items() if name not in gone}
    assert jsontext.canonical({name: params.pop(name) for name in kept}) == jsontext.canonical(kept)
    assert params.keys() <= ADDED
    if "timestamp_micros" in said:
        time_us = item.stamp.wall_us if item.time_us is None else item.time_us
        # The events of one message are kept apart, in their order.
        assert 0 <= time_us - int(said["timestamp_micros"]) < EVENTS_MAX
    check_sender(said, item.sender.body)


def check_sender(said: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Somebody named is sent as he is; only the agent's own ids get what the device knows."""
    own = {key: value for key, value in said.items() if key not in OF_EVENT}
    if "client_id" in said or "app_instance_id" in said:
        assert found == own
        return
    device = MACHINE.sender(None).body
    assert found.keys() == own.keys() | device.keys() - {"client_id"} | found.keys() & OWN_IDS
    assert len(found.keys() & OWN_IDS) == 1
    assert found.get("client_id") != device["client_id"] or "client_key" not in said
    for key in found.keys() - OWN_IDS:
        expected = own.get(key, device.get(key))
        if key in device and key != "user_location":  # a place is one thing
            expected = {**device[key], **own.get(key, {})}
        assert found[key] == expected


# -- out --------------------------------------------------------------------------------------


def leave(queued: Sequence[Event], agent: Agent, counts: Counter[str]) -> None:
    """Every event leaves in one request that keeps the rules, or is withheld."""
    lanes: dict[tuple[str, str, int], list[Event]] = defaultdict(list)
    for event in queued:
        lanes[event.stream, event.sender.key, int(event.priority)].append(event)
    for (name, _, _), lane in lanes.items():
        found = departures(lane, agent.terms(agent.streams[name]))
        departing = [each for each in found if isinstance(each, Departing)]
        counts["withheld"] += len(found) - len(departing)
        carried = 0
        for batch, request in requests(departing, agent.streams[name]):
            check_request(batch, request, name, agent)
            counts["requests"] += 1
            counts["full of bytes"] += len(batch) < min(EVENTS_MAX, len(departing) - carried)
            carried += len(batch)
        assert carried == len(departing)
        counts["carried"] += carried


def requests(
    departing: Sequence[Departing], stream: Stream
) -> Iterator[tuple[Sequence[Departing], Request]]:
    """All of them, in as many requests as it takes."""
    while departing:
        number = fitting(departing)
        yield departing[:number], build(departing[:number], stream)
        departing = departing[number:]


def check_request(batch: Sequence[Departing], request: Request, name: str, agent: Agent) -> None:
    assert 1 <= len(batch) <= EVENTS_MAX
    assert len(request.body) < BODY_LIMIT
    body = jsontext.loads(request.body, max_depth=jsontext.MAX_DEPTH + 4)
    for said, each in zip(body["events"], batch, strict=True):
        assert said.keys() <= {"name", "params", "timestamp_micros"}
        assert (said["name"], said["timestamp_micros"]) == (each.event.name, each.time_us)
        assert said.get("params", {}) == each.params
        assert "debug_mode" not in each.params
    judge, stream = agent.judges[name], agent.streams[name]
    for each in batch:
        late = agent.clock.now_us() - each.happened_us > LATE_US
        assert "late_h" in each.params or not late
        tests = judge.mode != "repair" or stream.traffic_type is None
        assert tests or each.params["traffic_type"] == stream.traffic_type
    if judge.mode == "off":
        return
    found = validate(
        body, stream=judge.kind, now_us=agent.clock.now_us(), policy=judge.policy,
        size=len(request.body),
    )  # fmt: skip
    assert not [violation for violation in found if not excused(violation)], found


def excused(violation: Violation) -> bool:
    """An old time of a user property's own: GA4 asks for nothing but that older do not win."""
    return violation.place[0] == "user_properties" and violation.rule in LATER


# -- all of it --------------------------------------------------------------------------------


def one(each: Payload, message_: Message, agent: Agent, counts: Counter[str]) -> Iterator[Event]:
    """Take one payload; yields the events that are stored."""
    part = agent.take(message_)
    counts[each.kind] += 1
    for error in part.rejected:
        check_reason(error)
    assert part.items or part.rejected or part.duplicates, "it vanished"
    for item in part.stored:
        check_row(item, each)
        if isinstance(item, Event):
            yield item
    if each.said is not None:
        check_unchanged(each, part)
    mode = (message_.stream or "").split("_")[0]
    if mode == "repair" and message_.rule is None and EASY.issuperset(each.made or ("",)):
        assert not part.rejected, [str(error) for error in part.rejected]
        counts["easy"] += 1
    counts.update(f"{mode} {each.kind} {verdict}" for verdict in verdicts(part))
    for name in part.counts:
        counts[name] += 1
    for error in part.rejected:
        counts[f"code {error.code}"] += 1


def verdicts(part: Sorted) -> Iterator[str]:
    yield "all"
    if part.rejected:
        yield "refused"
    elif any(name.startswith("repaired.") for name in part.counts):
        yield "repaired"
    else:
        yield "as it was"


def run(payloads: Iterator[tuple[int, Payload]], agent: Agent) -> Iterator[Counter[str]]:
    """Yields the counts after each batch."""
    counts: Counter[str] = Counter()
    queued: list[Event] = []
    for number, each in payloads:
        try:
            taken = list(one(each, message(each, number), agent, counts))
        except Exception as error:
            raise AssertionError(f"payload {number}: {facts(each)}") from error
        counts["stored"] += len(taken)
        queued += taken
        if (number + 1) % BATCH == 0:
            leave_all(queued, agent, counts, number)
            queued = []
            yield counts
    leave_all(queued, agent, counts, number)
    yield counts


def leave_all(queued: Sequence[Event], agent: Agent, counts: Counter[str], number: int) -> None:
    try:
        leave(queued, agent, counts)
    except Exception as error:
        raise AssertionError(f"a request of the {BATCH} payloads up to {number}") from error


def memory_kb(field: str = "VmRSS") -> int:
    """Of this process, as the kernel counts it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc keeps pieces of what was given back
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    ]
    return int(line.split()[1])


def generated(seed: int, first: int, number: int) -> dict[str, Any]:
    """Run as many; memory is looked at after a fifth of them and after all."""
    counts: Counter[str] = Counter()
    payloads = ((n, payload(seed, n)) for n in range(first, first + number))
    agent = Agent(trusted=first == 0)
    early_kb, done = 0, 0
    for counts in run(payloads, agent):
        done = counts["valid"] + counts["damaged"] + counts["hostile"]
        if not early_kb and done >= number // 5:
            early_kb = memory_kb()
    return {"counts": counts, "early_kb": early_kb, "late_kb": memory_kb()}


def large(size: int) -> dict[str, Any]:
    """A few very large ones, and smaller ones of many parts, in every mode and from both sources.

    Twice: what stays after the first time is what Python keeps for the second.
    """
    agent, counts = Agent(trusted=True), Counter[str]()
    slowest, after_kb = 0.0, []
    for _ in range(2):
        for what, raw in itertools.chain(very_large(size), very_many(size // 50)):
            each = Payload("hostile", "single", app=False, raw=raw, made=(what,))
            slowest = max(
                slowest, *(_seconds(each, number, agent, counts) for number in ONE_OF_EACH)
            )
        after_kb.append(memory_kb())
    early_kb, late_kb = after_kb
    return {
        "counts": counts, "early_kb": early_kb, "late_kb": late_kb,
        "peak_kb": memory_kb("VmHWM"), "slowest_s": slowest,
    }  # fmt: skip


def _seconds(each: Payload, number: int, agent: Agent, counts: Counter[str]) -> float:
    """What it takes of a processor."""
    began = time.process_time()
    leave(list(one(each, message(each, number), agent, counts)), agent, counts)
    return time.process_time() - began


def main(seed: str, first: str, number: str) -> None:
    """Print what was counted."""
    made = large(int(number)) if first == "large" else generated(int(seed), int(first), int(number))
    print(json.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
