"""What came in lately is kept while somebody looks on, within bounds, and counted else."""

import json
import threading

import pytest

from agent.event import Stamp, Stream
from agent.intake.mapping import Rule
from agent.intake.message import Message
from agent.intake.sorting import Ready, Sorted
from agent.recent import KEEP, WATCHED_S, Recent
from agent.topic import TopicFilter
from tests.sorters import sorter

STAMP = Stamp(wall_us=1_800_000_000_000_000, boot_us=1_000_000, boot_id="boot", trusted=True)
MAIN = Stream(name="main", endpoint="http://127.0.0.1", measurement_id="G-MAIN", event_id=False)
SORTER = sorter(streams={"main": MAIN}, new_id=lambda: "id")


class Time:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def recent(time):
    return Recent(monotonic=time, wall=lambda: 1_800_000_000.25)


def takes(recent, *payloads, source="http", answerable=True):
    """What the door does with messages."""
    for payload in payloads:
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        message = Message(source=source, payload=text, answerable=answerable)
        recent.note(message, SORTER.sort(message, STAMP))


def event(number):
    return {"name": f"e{number}", "params": {"n": number}}


def names(look):
    return [item["name"] for s in look.document["sightings"] for item in s["items"]]


def test_the_first_look_sees_nothing_yet_and_the_next_what_came_since(recent):
    takes(recent, event(1))
    first = recent.after(None)
    assert first.document == {"newest": 1, "missed": 0, "sightings": []}
    takes(recent, event(2), event(3))
    second = recent.after(first.newest)
    assert (names(second), second.newest, second.missed) == (["e2", "e3"], 3, 0)
    assert recent.after(second.newest).document == {"newest": 3, "missed": 0, "sightings": []}


def test_two_who_look_on_see_the_same(recent):
    one, other = recent.after(None), recent.after(None)
    takes(recent, event(1))
    assert names(recent.after(one.newest)) == ["e1"]
    assert names(recent.after(other.newest)) == ["e1"]


def test_an_event_is_shown_as_an_export_would_write_it(recent):
    number = recent.after(None).newest
    takes(recent, event(1), source="mqtt")
    assert recent.after(number).document["sightings"] == [
        {
            "time": "2027-01-15T08:00:00.250+00:00",
            "source": "mqtt",
            "items": [
                {
                    "name": "e1",
                    "params": {"n": 1},
                    "event_id": "id",
                    "priority": "normal",
                    "stream": "main",
                    "stamp": {
                        "wall_us": STAMP.wall_us,
                        "boot_us": STAMP.boot_us,
                        "boot_id": "boot",
                        "trusted": True,
                    },
                    "complete": True,
                    "client_id": "1.1",
                }
            ],
            "rejected": [],
            "counts": {},
            "duplicates": 0,
            "duplicate_events": [],
            "turned_away": None,
        }
    ]


def test_what_was_repaired_is_told_as_the_ledger_counts_it_and_repetitions_too(recent):
    number = recent.after(None).newest
    message = Message(source="http", payload=b"{}")
    recent.note(message, Sorted(counts={"repaired.text_cut": 1}, duplicates=2))
    [sighting] = recent.after(number).document["sightings"]
    assert (sighting["counts"], sighting["duplicates"]) == ({"repaired.text_cut": 1}, 2)


def test_what_is_refused_is_shown_with_the_reason(recent):
    number = recent.after(None).newest
    takes(recent, [event(1), {"nam": 1}])
    [sighting] = recent.after(number).document["sightings"]
    assert [item["name"] for item in sighting["items"]] == ["e1"]
    [error] = sighting["rejected"]
    assert error["fieldPath"] == "[1]"
    assert "unknown key 'nam'" in error["description"]
    assert error["validationCode"] == "VALUE_INVALID"


def test_what_a_source_turned_away_is_shown_among_the_rest_and_not_kept_for_nobody(recent):
    recent.turned_away("http", "forbidden", "found a foreign Origin")
    assert not recent._kept
    number = recent.after(None).newest
    takes(recent, event(1))
    recent.turned_away("http", "forbidden", "found a foreign Origin")
    look = recent.after(number)
    assert (look.newest, look.missed) == (3, 0)
    _, sighting = look.document["sightings"]
    assert sighting["turned_away"] == {"reason": "forbidden", "why": "found a foreign Origin"}
    assert (sighting["source"], sighting["items"], sighting["rejected"]) == ("http", [], [])


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"name": "tap", "params": 1}, ["tap"]),
        ([{"name": "tap", "actor": 1}], ["tap"]),
        ({"nam": "tap"}, [None]),
        ({"name": 7}, [None]),
        (
            [{"name": "a"}, {"name": "tap", "params": 1}, {"name": "vend", "actor": 1}],
            ["tap", "vend"],
        ),
        ({"events": [{"name": "a"}] * 11 + [{"name": "b", "actor": 1}]}, ["b"]),
        ({"client_id": "", "events": [{"name": "tap"}]}, [None]),
        ({"name": "n" * 1000, "actor": 1}, ["n" * 40]),
    ],
)
def test_what_is_refused_has_the_name_of_its_event_where_that_is_known(recent, payload, named):
    number = recent.after(None).newest
    takes(recent, payload)
    [sighting] = recent.after(number).document["sightings"]
    assert [each.get("event") for each in sighting["rejected"]] == named


@pytest.mark.parametrize(
    ("stored", "duplicates", "named"),
    [
        ([], 3, ["tap", "tap", "vend"]),
        (["tap"], 2, ["tap", "vend"]),
        (["tap", "vend"], 1, ["tap"]),
        (["tap", "tap", "vend"], 0, []),
        ([], 1, []),
    ],
)
def test_what_was_taken_before_is_named_if_it_is_clear_which_events_that_were(
    recent, make_event, stored, duplicates, named
):
    number = recent.after(None).newest
    payload = json.dumps([{"name": name} for name in ("tap", "tap", "vend")]).encode()
    items = tuple(Ready(event=make_event(name)) for name in stored)
    recent.note(Message(source="http", payload=payload), Sorted(items, duplicates=duplicates))
    [sighting] = recent.after(number).document["sightings"]
    assert sighting["duplicate_events"] == named


def test_what_a_mapping_reads_is_not_taken_for_an_event_s_name(recent):
    number = recent.after(None).newest
    topic = TopicFilter.read("oven")
    rule = Rule.read(
        topic, texts={"name": "bake"}, params={"heat": "{json.heat}"}, user_properties={}
    )
    message = Message(
        source="mqtt", payload=b'{"name": "Oven 2"}', rule=rule, topic="oven", answerable=False
    )
    recent.note(message, SORTER.sort(message, STAMP))
    [sighting] = recent.after(number).document["sightings"]
    assert ["event" in each for each in sighting["rejected"]] == [False]


def test_what_becomes_a_dead_letter_is_shown_with_the_reason(recent):
    number = recent.after(None).newest
    takes(recent, b"nonsense", answerable=False)
    [sighting] = recent.after(number).document["sightings"]
    assert [(item["raw"], item["reason"]) for item in sighting["items"]] == [
        ("bm9uc2Vuc2U=", "malformed")
    ]
    assert "found no JSON" in sighting["rejected"][0]["description"]


def test_while_nobody_looks_nothing_is_kept(recent):
    takes(recent, *map(event, range(100)))
    assert not recent._kept


def test_who_has_stopped_looking_is_forgotten_and_what_was_kept_for_them(recent, time):
    number = recent.after(None).newest
    takes(recent, event(1))
    time.now += WATCHED_S + 0.1
    takes(recent, event(2), event(3))
    assert not recent._kept
    late = recent.after(number)
    assert (names(late), late.missed) == ([], 3)


def test_who_looks_often_enough_misses_nothing(recent, time):
    number = recent.after(None).newest
    seen = []
    for n in range(20):
        time.now += WATCHED_S - 0.1
        takes(recent, event(n))
        look = recent.after(number)
        number = look.newest
        seen += names(look)
        assert look.missed == 0
    assert seen == [f"e{n}" for n in range(20)]


def test_what_comes_in_faster_than_it_is_looked_at_is_counted_and_the_newest_is_shown(recent):
    number = recent.after(None).newest
    takes(recent, *map(event, range(5000)))
    look = recent.after(number)
    assert look.missed > 0
    assert look.missed + len(look.sightings) == 5000
    assert names(look)[-1] == "e4999"
    assert names(look) == [f"e{n}" for n in range(look.missed, 5000)]


@pytest.mark.parametrize(
    "payload",
    [
        {"name": "large", "params": {"x": "x" * 100_000}},
        [{"name": "small"}] * 400,
        [{"nam": "refused"}] * 400,
    ],
    ids=["large", "many", "refused"],
)
def test_what_is_kept_has_a_bound_in_bytes_and_an_answer_about_the_same(recent, payload):
    number = recent.after(None).newest
    takes(recent, *[payload] * 50)
    look = recent.after(number)
    assert 0 < len(look.sightings) < 50
    assert len(json.dumps(look.document)) < 2 * KEEP


def test_a_single_message_beyond_the_bound_is_missed_and_the_next_is_seen(recent):
    number = recent.after(None).newest
    takes(recent, {"name": "huge", "params": {"x": "x" * KEEP}}, event(1))
    look = recent.after(number)
    assert (names(look), look.missed) == (["e1"], 1)


@pytest.mark.parametrize("number", [4, 10**30, -1])
def test_a_number_that_was_never_given_is_of_an_earlier_run_so_all_was_missed_or_is_shown(
    recent, number
):
    takes(recent, event(1))
    recent.after(None)
    takes(recent, event(2), event(3))
    look = recent.after(number)
    assert (look.newest, look.missed, names(look)) == (3, 1, ["e2", "e3"])


def test_threads_that_take_and_one_that_looks_lose_nothing(recent):
    number = recent.after(None).newest
    threads = [
        threading.Thread(target=takes, args=(recent, *map(event, range(300)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    counted = 0
    while any(thread.is_alive() for thread in threads) or number < 1200:
        look = recent.after(number)
        counted += len(look.sightings) + look.missed
        number = look.newest
    assert (counted, number) == (1200, 1200)
