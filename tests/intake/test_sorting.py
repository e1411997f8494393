"""A message taken apart: what of it is stored, as what, and why the rest is refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Clock
from agent.event import UNASSIGNED, Beginning, RawMessage, Sender, Stamp, Stream
from agent.ga4.validate import validate_event
from agent.intake.attribution import Attribution, Device
from agent.intake.borrowed import keyed_id
from agent.intake.judging import Judge
from agent.intake.mapping import Rule
from agent.intake.message import Message
from agent.intake.parse import Shape
from agent.intake.sorting import Ready
from agent.secret import Secret
from agent.topic import TopicFilter
from tests.sorters import DEVICE, sorter

NOW = 1_800_000_000_000_000
SECOND, HOUR = 1_000_000, 3_600_000_000
UPTIME = 10 * HOUR
HERE = Stamp(NOW, UPTIME, "b", trusted=True)
WEB = Stream(name="main", endpoint="https://x", measurement_id="G-ABC123")
APP = Stream(name="app", endpoint="https://x", firebase_app_id="1:2:android:3")
STREAMS = {"main": WEB, "app": APP}
SALT = Secret("0123456789abcdef0123")
CARD = "canary-7731"
COOKIES = "_ga=GA1.1.286403989.1366364567; _ga_ABC123=GS1.1.1690013078.2.1.1690013090.0"
MODES = ["repair", "strict", "off"]
BAD_NAME = {"name": "bad name"}


class Clocks:
    """A wall clock, a boot clock and the kernel's opinion of them, to be set by a test."""

    def __init__(self, wall=NOW, boot=UPTIME, *, right=True):
        self.wall, self.boot, self.right = wall, boot, right
        self.clock = Clock(
            wall=lambda: self.wall, boot=lambda: self.boot, boot_id="b",
            synchronised=lambda: self.right,
        )  # fmt: skip

    def go_on(self, us):
        self.wall += us
        self.boot += us
        self.clock.note_offset()


def sort(value, *, clocks=None, message=(), **parts):
    """What becomes of a message that arrives now."""
    clocks = clocks or Clocks()
    made = sorter(**{"streams": STREAMS, "clock": clocks.clock, "mode": "repair"} | parts)
    return made.sort(say(value, **dict(message)), clocks.clock.stamp())


def say(value, **fields):
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Message(**{"source": "http", "payload": payload} | fields)


def thrown(value, **parts):
    """The same from a publisher who waits for no answer."""
    message = {"source": "mqtt", "answerable": False} | parts.pop("message", {})
    return sort(value, message=message, **parts)


def event_of(value, **parts):
    [event] = sort(value, **parts).stored
    return event


def paths(sorted_):
    return [error.field_path for error in sorted_.rejected]


def tap(**fields):
    return {"name": "tap", **fields}


def attribution(**device):
    return {"attribution": Attribution(device=replace(DEVICE, **device), salt=SALT)}


# -- what the agent adds ----------------------------------------------------------------------------


def test_an_event_gets_the_device_s_params_its_event_id_and_the_traffic_type():
    streams = {"main": replace(WEB, traffic_type="internal")}
    event = event_of(tap(params={"x": 1, "site": "own"}), streams=streams, params={"site": "s"})
    assert event.params == {
        "x": 1, "site": "own", "event_id": "made-1", "traffic_type": "internal",
    }  # fmt: skip
    assert event.event_id == "made-1"


def test_the_event_id_that_is_sent_is_the_one_that_the_publisher_brought():
    event = event_of(tap(event_id="mine"))
    assert (event.event_id, event.params["event_id"]) == ("mine", "mine")


def test_a_stream_can_do_without_event_id():
    assert event_of(tap(), streams={"main": replace(WEB, event_id=False)}).params == {}


def test_over_25_the_device_s_params_give_way_first_then_event_id_then_traffic_type():
    streams = {"main": replace(WEB, traffic_type="internal")}
    own = {f"p{n}": n for n in range(22)}
    found = sort(tap(params=own), streams=streams, params={"site": "s"}, sessions=True)
    [item] = found.items
    assert item.event.params == own | {"traffic_type": "internal"}
    assert item.room == {"session_id", "engagement_time_msec"}
    assert found.counts == {"repaired.agent_param_dropped": 2}


@pytest.mark.parametrize("mode", MODES)
def test_the_rules_are_applied_to_what_will_be_sent_with_all_that_was_added(mode):
    """The device's own param is too long: it is repaired or broken like a publisher's."""
    found = sort(tap(), params={"site": "s" * 101}, mode=mode)
    if mode == "strict":
        assert paths(found) == ["params.site"]
        return
    assert len(found.stored[0].params["site"]) == (100 if mode == "repair" else 101)


# -- whose it is, and its session -------------------------------------------------------------------


def room(value, **parts):
    return set(sort(value, sessions=True, **parts).items[0].room)


def test_ids_that_were_made_here_get_session_and_engagement():
    assert room(tap()) == {"session_id", "engagement_time_msec"}
    keyed = tap(client_key=CARD)
    assert room(keyed, **attribution()) == {"session_id", "engagement_time_msec"}


def test_borrowed_ids_get_at_most_the_session_of_their_cookie():
    assert room(tap(client_id="9.9")) == set()
    assert room(tap(), message={"cookies": COOKIES}) == {"session_id"}


@pytest.mark.parametrize("identity", [{}, {"client_id": "9.9"}, {"cookies": COOKIES}])
def test_who_brings_a_session_keeps_it_and_what_was_measured_of_it(identity):
    event = tap(params={"session_id": 1690000000}, **identity)
    assert room(event) == set()
    assert event_of(event).params["session_id"] == 1690000000


def test_an_engagement_that_was_measured_elsewhere_is_kept():
    assert room(tap(params={"engagement_time_msec": 5})) == {"session_id"}


WRONG_SESSIONS = ["17fba6ee-8673-4ebc", "0", "", "abc", 0, -1, 1.5, True, []]


@pytest.mark.parametrize("session_id", WRONG_SESSIONS)
def test_who_brings_a_session_that_is_none_gets_ours(session_id):
    found = sort(tap(params={"session_id": session_id, "x": "y" * 101}), sessions=True)
    [item] = found.items
    assert item.room == {"session_id", "engagement_time_msec"}
    assert item.event.params.keys() == {"x", "event_id"}
    assert found.counts == {"repaired.identifier_dropped": 1, "repaired.text_cut": 1}


@pytest.mark.parametrize("msec", ["abc", -1, ""])
def test_who_brings_an_engagement_that_is_none_gets_ours(msec):
    found = sort(tap(params={"engagement_time_msec": msec}), sessions=True)
    assert found.items[0].room == {"session_id", "engagement_time_msec"}
    assert found.counts == {"repaired.param_dropped": 1}


def test_an_engagement_is_kept_beside_a_session_that_is_none_and_none_is_made_of_his_own():
    mixed = {"session_id": "abc", "engagement_time_msec": 5}
    assert room(tap(params=mixed)) == {"session_id"}
    assert event_of(tap(params=mixed)).params["engagement_time_msec"] == 5
    his = {"session_id": 1690000000, "engagement_time_msec": "abc"}
    assert room(tap(params=his)) == set()


def test_what_gives_way_to_our_session_is_counted_with_what_was_wrong_in_theirs():
    own = {f"p{n}": n for n in range(24)}
    found = sort(tap(params=own | {"session_id": "abc"}), sessions=True)
    [item] = found.items
    assert (item.event.params, item.room) == (own, {"session_id"})
    assert found.counts == {
        "repaired.identifier_dropped": 1, "repaired.agent_param_dropped": 2,
    }  # fmt: skip


def test_a_session_that_is_none_is_refused_or_left_where_nothing_is_repaired():
    said = tap(params={"session_id": "abc"})
    assert paths(sort(said, sessions=True, mode="strict")) == ["params.session_id"]
    assert room(said, mode="off") == set()
    assert event_of(said, mode="off", sessions=True).params["session_id"] == "abc"


def test_a_borrowed_id_gets_its_cookie_s_session_in_place_of_one_that_is_none():
    said = tap(params={"session_id": "abc"})
    assert room(said, message={"cookies": COOKIES}) == {"session_id"}
    assert room(said | {"client_id": "9.9"}) == set()


def test_without_sessions_nobody_gets_one():
    assert sort(tap(), sessions=False).items[0].room == set()


def test_a_borrowed_id_without_session_is_counted():
    counted = {"noted.borrowed_without_session": 1}
    assert sort(tap(client_id="9.9")).counts == counted
    assert sort(tap(cookies="_ga=GA1.1.1.2")).counts == counted
    # Its own is none that GA4 would take, so it is dropped.
    found = sort(tap(client_id="9.9", params={"session_id": "no number!"}))
    assert found.counts["noted.borrowed_without_session"] == 1
    for has_one in (tap(cookies=COOKIES), tap(client_id="9.9", params={"session_id": 1690000000})):
        assert sort(has_one).counts == {}
    assert sort(tap()).counts == {}


def test_a_key_becomes_an_id_and_neither_it_nor_cookies_are_stored():
    event = event_of(tap(client_key=CARD, cookies=f"x={CARD}"), **attribution())
    assert event.sender.client_id == keyed_id(CARD, SALT)
    assert CARD not in repr(event)


def test_without_a_stream_an_app_s_events_are_kept_for_the_stream_that_is_to_come():
    event = event_of(tap(app_instance_id="f" * 32), streams={})
    assert (event.stream, event.sender.app_instance_id) == (UNASSIGNED, "f" * 32)
    assert event_of(tap(client_id="9.9"), streams={}).sender.client_id == "9.9"


# -- by what a repetition is known ------------------------------------------------------------------


def kinds(value, **parts):
    return {seen.kind for seen in sort(value, **parts).items[0].seen}


def marks(value, **parts):
    return sort(value, **parts).items[0].seen


def test_only_an_event_id_that_was_brought_and_a_transaction_are_known_again():
    assert kinds(tap()) == set()
    assert kinds(tap(event_id="e1")) == {"event_id"}
    assert kinds(tap(params={"transaction_id": "t"})) == set(), "of sales only"
    sale = {"transaction_id": "t", "value": 1, "currency": "EUR", "items": [{"item_id": "i"}]}
    assert kinds({"name": "purchase", "params": sale}) == {"transaction"}


def test_a_transaction_is_compared_as_it_was_said_and_not_as_it_was_completed():
    """What the agent adds, repairs or takes out changes with its configuration."""
    sale = {"transaction_id": "t", "value": 1, "currency": "EUR", "items": [{"item_id": "i"}]}
    free = {"mail": "a@example.com", "text": "x" * 200}
    said = {"name": "purchase", "params": sale | free}
    assert marks(said) == marks(said, params={"site": "s"}, mode="off") != ()


def test_the_device_s_events_are_known_again_after_its_id_was_reset():
    said = tap(event_id="e1")
    assert marks(said) == marks(said, device=Device(client_id="5.5"))
    assert marks(said) != marks(tap(event_id="e1", client_id="9.9"))


# -- all violations, in the message's terms ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["repair", "strict"])
@pytest.mark.parametrize(
    ("within", "place"),
    [
        (lambda event: event, ""),
        (lambda event: [tap(), tap(), tap(), event], "[3]."),
        (lambda event: {"events": [tap(), tap(), tap(), event]}, "events[3]."),
    ],
)
def test_violations_have_the_paths_of_the_message(mode, within, place):
    bad = {"name": "purchase", "params": {"value": "abc", "currency": "EUR"}}
    found = sort(within(bad), mode=mode)
    assert f"{place}params.value" in paths(found)
    assert all(path.startswith(f"{place}params.") for path in paths(found))
    assert found.rejected[0].code
    assert found.refused == (4 if place.startswith("events") else 1)


def test_all_violations_are_told_at_once():
    bad = {"name": "bad name", "params": {"9nine": 1, "text": "x" * 101}}
    assert set(paths(sort(bad, mode="strict"))) == {"name", "params.9nine", "params.text"}


PROPERTY = {"user_properties": {"9bad": {"value": 1}}}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (tap(**PROPERTY), "user_properties.9bad"),
        ([tap(), tap(**PROPERTY)], "[1].user_properties.9bad"),
        ({"events": [tap(), tap()], **PROPERTY}, "user_properties.9bad"),
    ],
)
def test_what_is_wrong_with_a_sender_is_told_once_and_where_it_stands(value, path):
    assert paths(sort(value, mode="strict")) == [path]


def test_off_refuses_nothing_that_can_be_sent():
    found = sort({"name": "bad name", "params": {"9nine": 1}}, mode="off")
    assert (found.rejected, len(found.stored)) == ((), 1)


# -- refused, or a dead letter ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["repair", "strict"])
def test_what_cannot_be_sent_is_refused_where_the_publisher_hears_it(mode):
    found = sort(BAD_NAME, mode=mode)
    assert (found.items, found.refused, found.nothing_taken) == ((), 1, True)


@pytest.mark.parametrize("mode", ["repair", "strict"])
@pytest.mark.parametrize("source", ["mqtt", "spool"])
def test_and_elsewhere_it_is_a_dead_letter_with_the_reason(mode, source):
    said = {"name": "bad name", "params": {"x": 1}, "event_id": "e1"}
    found = thrown(said, mode=mode, message={"source": source})
    [letter] = found.stored
    assert (letter.source, letter.reason, letter.stamp) == (source, "invalid", HERE)
    assert json.loads(letter.payload) == said
    assert letter.why == str(found.rejected[0])
    assert (found.refused, found.nothing_taken) == (0, False)


SECRET = {"client_key": CARD, "cookies": f"x={CARD}"}


@pytest.mark.parametrize(
    "value",
    [
        BAD_NAME | SECRET,
        [tap(), BAD_NAME | SECRET],
        {"events": [BAD_NAME], **SECRET},
        tap(**SECRET, params=1),
        b'{"name":"tap","client_key":"' + CARD.encode(),
    ],
)
def test_keys_and_cookies_are_in_no_dead_letter(value):
    letters = [s for s in thrown(value, **attribution()).stored if isinstance(s, RawMessage)]
    assert len(letters) == 1
    assert CARD not in repr(letters)


def rule(**texts):
    params = texts.pop("params", {})
    topic = TopicFilter.read("t")
    return Rule.read(topic, texts=texts, params=params, user_properties={}, streams=["main"])


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        (BAD_NAME | {"card": CARD}, BAD_NAME),
        ({"name": "bad name", "params": {"card": CARD}}, {"name": "bad name", "params": {}}),
        ([tap(), BAD_NAME | {"params": {"card": CARD}}], None),
    ],
)
def test_what_a_mapping_makes_a_key_of_is_in_no_dead_letter_either(value, rest):
    """``None``: of many it is not known where the key stands, so that nothing is kept."""
    path = "{json.card?}" if "card" in value else "{json.params.card?}"
    mapped = {"rule": rule(client_key=path), "topic": "t"}
    found = thrown(value, message=mapped, **attribution())
    [letter] = [s for s in found.stored if isinstance(s, RawMessage)]
    assert CARD not in repr(letter)
    assert letter.payload == (b"" if rest is None else letter.payload)
    assert rest is None or json.loads(letter.payload) == rest


def test_a_body_is_a_dead_letter_as_a_whole_and_nothing_of_it_is_counted_as_repaired():
    said = {"events": [tap(params={"x": "y" * 101}), BAD_NAME]}
    found = thrown(said)
    [letter] = found.stored
    assert json.loads(letter.payload) == said
    assert found.counts == {}


def test_of_an_array_what_is_repaired_is_counted_if_it_is_taken():
    found = thrown([tap(params={"x": "y" * 101}), BAD_NAME, tap(params={"x": "y" * 101})])
    assert [type(item) for item in found.items] == [Ready, Ready, RawMessage]
    assert found.counts == {"repaired.text_cut": 2}


# -- what lay in a queue already --------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_what_an_export_holds_is_taken_as_it_was(mode):
    """No repair, nothing added, by nothing known again, and no sitting of now."""
    stamp = {"wall_us": 5, "boot_us": 6, "boot_id": "old", "trusted": False}
    said = {
        "name": "bad name",
        "params": {f"p{n}": "a@example.com" for n in range(30)} | {"debug_mode": 1},
        "client_id": "77.7",
        "event_id": "e1",
        "timestamp_micros": NOW - HOUR,
        "session": "start",
        "stamp": stamp,
        "sitting": {"client": "1.1", "start": stamp},
        "complete": True,
    }
    found = thrown(
        said, mode=mode, params={"site": "s"}, sessions=True, message={"shape": Shape.SPOOL}
    )
    [item] = found.items
    assert item == Ready(event=item.event)
    event = item.event
    assert (event.params, event.name) == (said["params"], "bad name")
    assert (event.sender, event.event_id) == (Sender(client_id="77.7"), "e1")
    assert (event.stamp, event.time_us) == (Stamp(**stamp), NOW - HOUR)
    assert event.sitting == Beginning("1.1", Stamp(**stamp))
    assert found.counts == {}


def test_even_so_it_must_fit_its_stream():
    found = thrown(tap(complete=True), message={"shape": Shape.SPOOL})
    assert [letter.reason for letter in found.stored] == ["invalid"]
    assert paths(found) == ["client_id"]


# -- times ------------------------------------------------------------------------------------------


def test_an_event_without_a_time_has_the_stamp_of_its_arrival_or_of_its_message():
    assert (event_of(tap()).stamp, event_of(tap()).time_us) == (HERE, None)
    written = Stamp(NOW - HOUR, 5, "b", trusted=True)
    assert event_of(tap(), message={"stamp": written}).stamp == written


@pytest.mark.parametrize("unit", [1, 1000, SECOND])
@pytest.mark.parametrize("mode", ["repair", "off"])
def test_a_time_of_this_device_s_clock_becomes_a_stamp(unit, mode):
    """Also in milliseconds and seconds, where that may be repaired."""
    if mode == "off" and unit != 1:
        return
    found = sort(tap(timestamp_micros=(NOW - HOUR) // unit), mode=mode)
    event = found.stored[0]
    assert event.time_us is None
    assert event.stamp == Stamp(NOW - HOUR, UPTIME - HOUR, "b", trusted=True)
    assert found.counts == ({} if unit == 1 else {"repaired.time_unit": 1})


def test_a_time_in_the_future_of_this_device_s_clock_is_now():
    for ahead in (1, 60 * SECOND, HOUR, 1000 * HOUR):
        assert event_of(tap(timestamp_micros=NOW + ahead)).stamp == HERE


@pytest.mark.parametrize("message", [{"local": False}])
def test_a_time_of_another_clock_is_left_as_it_is_said(message):
    event = event_of(tap(timestamp_micros=NOW - HOUR), message=message)
    assert (event.time_us, event.stamp) == (NOW - HOUR, HERE)
    in_seconds = event_of(tap(timestamp_micros=NOW // SECOND), message=message)
    assert (in_seconds.time_us, in_seconds.stamp) == (NOW, HERE)


def test_a_time_from_before_this_boot_stays_what_it_is_if_the_clock_is_right():
    event = event_of(tap(timestamp_micros=NOW - 20 * HOUR))
    assert (event.time_us, event.stamp) == (NOW - 20 * HOUR, HERE)


BEFORE = NOW - 20 * HOUR


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_of_a_time_from_before_this_boot_no_moment_of_it_is_known(local, mode):
    found = sort(tap(timestamp_micros=BEFORE), mode=mode, message={"local": local})
    assert found.items[0].moment == Stamp(BEFORE, 0, "", trusted=True)


@pytest.mark.parametrize("ahead", [-HOUR, 0, HOUR])
def test_a_right_clock_tells_the_moment_of_what_another_clock_said(ahead):
    """The future is now."""
    past = min(ahead, 0)
    found = sort(tap(timestamp_micros=NOW + ahead), message={"local": False})
    assert found.items[0].moment == Stamp(NOW + past, UPTIME + past, "b", trusted=True)


def test_a_clock_that_is_not_right_does_not():
    found = sort(
        tap(timestamp_micros=NOW - HOUR), clocks=Clocks(right=False), message={"local": False}
    )
    assert found.items[0].moment == Stamp(NOW - HOUR, 0, "", trusted=True)


def test_a_time_that_this_device_s_clock_has_shown_twice_has_no_moment():
    clocks = Clocks()
    clocks.go_on(HOUR)
    clocks.wall -= HOUR
    clocks.go_on(HOUR)
    found = sort(tap(timestamp_micros=NOW + HOUR // 2), clocks=clocks)
    assert found.items[0].moment == Stamp(NOW + HOUR // 2, 0, "", trusted=True)


def test_and_is_nobody_s_knowledge_if_it_is_not():
    clocks = Clocks(right=False)
    event = event_of(tap(timestamp_micros=NOW - 20 * HOUR), clocks=clocks)
    assert event.time_us is None
    assert event.stamp == Stamp(NOW - 20 * HOUR, 0, "", trusted=False)


def test_a_clock_in_1970_tells_times_of_1970():
    clocks = Clocks(wall=4000 * SECOND, boot=4000 * SECOND, right=False)
    event = event_of(tap(timestamp_micros=1000 * SECOND), clocks=clocks)
    assert event.time_us is None
    assert event.stamp == Stamp(1000 * SECOND, 1000 * SECOND, "b", trusted=False)


def test_a_time_that_was_noted_before_the_clock_was_set_is_corrected():
    clocks = Clocks(wall=0, boot=0, right=False)
    clocks.go_on(4000 * SECOND)
    clocks.wall, clocks.right = NOW, True
    event = event_of(tap(timestamp_micros=1000 * SECOND), clocks=clocks)
    assert event.time_us is None
    assert event.stamp == Stamp(NOW - 3000 * SECOND, 1000 * SECOND, "b", trusted=True)


def test_the_present_second_is_no_microsecond_that_a_clock_in_1970_has_shown():
    """It has run for an hour there: 1.8e9 was shown as microseconds after half an hour."""
    clocks = Clocks(wall=0, boot=0, right=False)
    clocks.go_on(HOUR)
    clocks.wall, clocks.right = NOW, True
    for unit in (SECOND, 1000):
        clocks.go_on(SECOND)
        event = event_of(tap(timestamp_micros=(clocks.wall - SECOND) // unit), clocks=clocks)
        assert event.stamp.wall_us == clocks.wall - SECOND
        assert event.stamp.trusted


def test_a_time_among_the_params_is_the_event_s_time():
    event = event_of(tap(params={"timestamp_micros": NOW - HOUR, "x": 1}))
    assert event.stamp.wall_us == NOW - HOUR
    assert "timestamp_micros" not in event.params


def test_a_mapping_says_whose_clock_it_is():
    for clock, stamped in (("device", True), ("publisher", False)):
        made = replace(rule(name="tap", time="{json.t}"), clock=clock)
        message = {"rule": made, "topic": "t", "local": True}
        event = event_of({"t": (NOW - HOUR) // SECOND}, message=message)
        assert (event.time_us is None) is stamped
        assert (event.stamp.wall_us if stamped else event.time_us) == NOW - HOUR


@given(
    st.integers(1, 2**53 - 1) | st.integers(NOW - 100 * HOUR, NOW + HOUR) | st.integers(1, 10**11),
    st.sampled_from([0, 1, 10**9, NOW - 3 * UPTIME, NOW]),
    st.booleans(),
    st.booleans(),
)
def test_a_time_of_this_device_is_never_in_the_future_and_of_this_boot_only_if_it_was(
    time_us, wall_us, right, jumped
):
    clocks = Clocks(wall=wall_us, boot=0, right=right and not jumped)
    clocks.go_on(UPTIME)
    if jumped:
        clocks.wall, clocks.right = NOW, right
    now = clocks.clock.stamp()
    event = event_of(tap(timestamp_micros=time_us), clocks=clocks)
    if event.time_us is not None:
        assert event.stamp.boot_id == "b"
        assert event.time_us < now.wall_us
    elif event.stamp.boot_id:
        assert 0 <= event.stamp.boot_us <= now.boot_us + 1
        assert event.stamp.wall_us <= now.wall_us + 1
    else:
        assert not event.stamp.trusted


# -- mapped messages --------------------------------------------------------------------------------


def test_a_mapped_message_is_completed_and_judged_like_any_other():
    made = rule(name="tap", params={"text": "{json.text}"}, event_id="{json.id}")
    found = thrown(
        {"text": "x" * 101, "id": "e1"}, params={"site": "s"},
        message={"rule": made, "topic": "t"},
    )  # fmt: skip
    [item] = found.items
    assert item.event.params == {"text": "x" * 100, "site": "s", "event_id": "e1"}
    assert found.counts == {"repaired.text_cut": 1}
    assert [seen.kind for seen in item.seen] == ["event_id"]


def test_a_mapped_message_that_breaks_rules_is_kept_whole_as_it_came_without_its_key():
    made = rule(name="{json.name}", client_key="{json.card}")
    said = {"name": "bad name", "card": CARD, "x": 1}
    found = thrown(said, message={"rule": made, "topic": "t"}, **attribution())
    [letter] = found.stored
    assert (letter.reason, json.loads(letter.payload)) == ("invalid", {"name": "bad name", "x": 1})
    assert paths(found) == ["name"]


# -- whatever comes in ------------------------------------------------------------------------------

events = st.fixed_dictionaries(
    {"name": st.sampled_from(["tap", "purchase", "bad name"])},
    optional={
        "params": st.dictionaries(
            st.sampled_from([f"p{n}" for n in range(30)] + ["session_id", "9x", "value"]),
            st.integers() | st.text(max_size=120),
            max_size=30,
        ),
        "client_id": st.sampled_from(["9.9", "GA1.1.1.2"]),
        "client_key": st.just(CARD),
        "cookies": st.just(COOKIES),
        "user_properties": st.just(PROPERTY["user_properties"]),
        "timestamp_micros": st.integers(1, 2**53 - 1),
    },
)


@given(
    st.one_of(events, st.lists(events, min_size=1, max_size=5)),
    st.sampled_from(["repair", "strict"]),
    st.booleans(),
)
def test_every_event_is_taken_or_told_and_what_is_taken_keeps_the_rules(value, mode, answerable):
    found = sort(
        value, mode=mode, params={"site": "s"}, sessions=True,
        message={"answerable": answerable}, **attribution(),
    )  # fmt: skip
    number = len(value) if isinstance(value, list) else 1
    assert len(found.items) + found.refused == number
    ready = [item for item in found.items if isinstance(item, Ready)]
    assert len(ready) == number or found.rejected
    for item in ready:
        broken = validate_event(item.event, stream="web", now_us=NOW)
        late = {"events[0].timestamp_micros"}
        assert {violation.field_path for violation in broken} <= late
        assert len(item.event.params) + len(item.room) <= 25
    assert CARD not in repr(found)


def test_the_judge_of_the_event_s_own_stream_is_asked():
    judges = {"main": Judge(mode="off"), "app": Judge(kind="app", mode="strict")}
    value = [BAD_NAME, BAD_NAME | {"app_instance_id": "f" * 32}]
    assert len(sort(value[0], judges=judges).items) == 1
    assert paths(sort(value[1], judges=judges, message={"stream": "app"})) == ["name"]


# -- how much of it is read -------------------------------------------------------------------------


class Unasked:
    """Rules that nobody may ask: reading 10 MB they keep the processor busy for half a minute."""

    def judge(self, event, **_):
        raise AssertionError(f"{event.name} was judged")


@pytest.mark.parametrize(
    "large",
    [
        tap(params={"x": "411 " * 40_000}),
        tap(params={"x": [{"y": "411 " * 40_000}]}),
        tap(params={f"p{n}": "411 " * 1000 for n in range(40)}),
        tap(user_properties={"x": {"value": "411 " * 40_000}}),
        tap(client_id="9" * 1000, user_agent="411 " * 40_000),
    ],
)
@pytest.mark.parametrize("answerable", [True, False])
def test_an_event_that_no_request_could_carry_is_refused_before_it_is_judged(large, answerable):
    """Wherever in it the bytes are, and in whatever it stands."""
    for value in (large, [large], {"events": [tap()], **{k: v for k, v in large.items()
                                                         if k not in ("name", "params")}}):  # fmt: skip
        if isinstance(value, dict) and "events" in value and "params" in large:
            value["events"] = [{"name": "tap", "params": large["params"]}]
        found = sort(value, judges={"main": Unasked()}, message={"answerable": answerable})
        [reason] = found.rejected
        assert reason.code == "VALUE_OUT_OF_BOUNDS"
        assert [type(item) for item in found.items] == ([] if answerable else [RawMessage])


def test_what_could_be_carried_is_judged_however_long_the_message_is():
    long = tap(params={"x": "y" * 100_000})
    found = sort([long, long, tap()])
    assert [len(event.params["x"]) for event in found.stored[:2]] == [100, 100]
    assert len(found.stored) == 3


def test_white_space_makes_no_event_too_large():
    assert len(sort(json.dumps(tap()).encode() + b" " * 200_000).stored) == 1
