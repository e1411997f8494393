"""The rules of a stream, applied to an event as it comes in."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import Event, Sender, Stamp
from agent.ga4.policy import Policy
from agent.ga4.repair import reading
from agent.ga4.validate import validate_event
from agent.ga4.violation import Rule
from agent.intake.judging import Judge

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
STAMP = Stamp(wall_us=NOW, boot_us=5, boot_id="b", trusted=True)
RESERVED = ("session_id", "engagement_time_msec")
MODES = ["repair", "strict", "off"]
JUDGED = ["repair", "strict"]
EMAIL = "ann@example.com"


def event(params=None, **fields):
    fields = {"name": "tap", "sender": Sender(client_id="1.1"), "stamp": STAMP} | fields
    return Event(stream="main", event_id="e", params=params or {}, **fields)


def judged(one, *, added=(), reserved=(), now_us=NOW, **settings):
    return Judge(**settings).judge(one, added=added, reserved=reserved, now_us=now_us)


def many(number, prefix="p"):
    return {f"{prefix}{n}": n for n in range(number)}


# -- modes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_valid_event_is_left_as_it_is_in_every_mode(mode):
    one = event({"site": "a"})
    found = judged(one, mode=mode, reserved=RESERVED)
    assert found.event is one
    assert (found.room, found.repaired, found.broken) == (frozenset(RESERVED), {}, ())


def test_repair_mends_and_counts_what_it_did():
    found = judged(event({"text": "x" * 101}))
    assert found.event.params == {"text": "x" * 100}
    assert (found.repaired, found.broken) == ({"text_cut": 1}, ())


def test_strict_changes_nothing_and_names_all_that_is_broken():
    one = event({"text": "x" * 101, "9nine": 1}, name="bad name")
    found = judged(one, mode="strict")
    assert (found.event, found.repaired) == (one, {})
    assert {violation.field_path for violation in found.broken} == {
        "events[0].name",
        "events[0].params.text",
        "events[0].params.9nine",
    }


def test_off_lets_pass_whatever_it_is():
    one = event({"text": "x" * 1000, "9nine": 1}, name="bad name")
    found = judged(one, mode="off")
    assert (found.event, found.repaired, found.broken) == (one, {}, ())


def test_what_repair_cannot_mend_is_broken_and_then_nothing_was_repaired():
    found = judged(event({"text": "x" * 101}, name="bad name"))
    assert [violation.field_path for violation in found.broken] == ["events[0].name"]
    assert found.repaired == {}
    assert found.event.params == {"text": "x" * 101}


def test_the_kind_of_the_stream_decides_which_rules_apply():
    reserved = event(name="ad_click", sender=Sender(app_instance_id="f" * 32))
    assert judged(reserved, kind="app", mode="strict").broken
    assert Rule.MISSING in {v.rule for v in judged(reserved, kind="web", mode="strict").broken}


@pytest.mark.parametrize("mode", JUDGED)
@pytest.mark.parametrize("hours", [-100, 100])
@pytest.mark.parametrize("own", [True, False])
def test_when_an_event_happened_is_judged_when_it_leaves_and_not_before(mode, hours, own):
    """Its stamp is corrected by then, and how late it is nobody knows yet."""
    time = NOW + hours * HOUR
    unsure = Stamp(time, 5, "b", trusted=False)
    one = event(time_us=time, stamp=replace(unsure, wall_us=NOW)) if own else event(stamp=unsure)
    assert judged(one, mode=mode).broken == ()
    assert judged(one, mode=mode).event == one


@pytest.mark.parametrize("ahead_us", [HOUR, HOUR // 4, -100 * HOUR])
def test_what_a_right_clock_finds_in_the_future_is_broken_in_strict_alone(ahead_us):
    one = event(time_us=NOW + ahead_us)
    rules = [v.rule for v in judged(one, mode="strict").broken]
    assert rules == ([Rule.TIME_FUTURE] if ahead_us == HOUR else [])
    assert judged(one, mode="strict", policy=Policy(future_us=HOUR)).broken == ()
    for mode in ("repair", "off"):
        assert (judged(one, mode=mode).event, judged(one, mode=mode).broken) == (one, ())


def test_a_clock_that_was_right_when_it_was_written_is_asked_and_not_one_that_stands_in_1970():
    assert judged(event(time_us=NOW - 5), mode="strict", now_us=10**9).broken == ()


# -- what it took to read it ------------------------------------------------------------------------

MENDED = (
    reading.without_keys(("events", 0), "found the unknown key 'foo', expected none", 2),
    *reading.micros(NOW * 1000, ("events", 0, "timestamp_micros"))[1],
)


def with_mended(one, mode):
    return Judge(mode=mode).judge(one, added=(), reserved=(), now_us=NOW, mended=MENDED)


@pytest.mark.parametrize("mode", ["repair", "off"])
def test_what_was_mended_to_read_it_is_counted(mode):
    found = with_mended(event({"text": "x" * 101}), mode)
    assert found.broken == ()
    cut = {"text_cut": 1} if mode == "repair" else {}
    assert found.repaired == {"key_dropped": 2, "time_unit": 1} | cut


def test_in_strict_what_was_mended_to_read_it_is_why_it_is_refused():
    found = with_mended(event({"text": "x" * 101}), "strict")
    assert [v.rule for v in found.broken] == [Rule.UNKNOWN_KEY, Rule.TIME_UNIT, Rule.TEXT_LENGTH]
    assert found.broken[1].description.startswith("found nanoseconds since 1970")


def test_a_clock_in_1970_breaks_no_rule():
    one = event(stamp=Stamp(3_000_000_000, 5, "b", trusted=False))
    assert judged(one, mode="strict", now_us=NOW).broken == ()


@pytest.mark.parametrize("unit", [1_000_000, 1000])
def test_a_publisher_s_time_in_a_wrong_unit_is_repaired_or_broken(unit):
    one = event(time_us=NOW // unit)
    found = judged(one)
    assert (found.event.time_us, found.repaired) == (NOW, {"time_unit": 1})
    [violation] = judged(one, mode="strict").broken
    assert violation.rule is Rule.TIME_UNIT


# -- what the agent adds gives way ------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("own", "gone", "room"),
    [
        (19, [], RESERVED),
        (20, ["event_id"], RESERVED),
        (21, ["event_id", "site"], RESERVED),
        (22, ["event_id", "site", "machine"], RESERVED),
        (23, ["event_id", "site", "machine", "engagement_time_msec"], RESERVED[:1]),
        (24, ["event_id", "site", "machine", *RESERVED], ()),
    ],
)
def test_over_25_the_agent_s_params_give_way_in_one_order_and_its_traffic_type_never(
    mode, own, gone, room
):
    added = {"site": "s", "machine": "m", "event_id": "e", "traffic_type": "internal"}
    one = event(many(own) | added)
    found = judged(one, mode=mode, added=list(added), reserved=RESERVED)
    left = [name for name in added if name not in gone]
    assert list(found.event.params) == [*many(own), *left]
    assert found.room == frozenset(room)
    assert found.repaired == ({"agent_param_dropped": len(gone)} if gone else {})
    assert len(found.event.params) + len(found.room) <= 25
    assert found.noted == {}


def test_for_the_traffic_type_the_last_of_a_publishers_25_that_names_nothing_goes():
    """Else a test would be counted as business."""
    own = many(24) | {"last_id": "x"}
    found = judged(event(own | {"traffic_type": "internal"}), added=["traffic_type"])
    assert found.event.params == many(23) | {"last_id": "x", "traffic_type": "internal"}
    assert (found.repaired, found.noted) == ({"param_dropped": 1}, {})


@pytest.mark.parametrize("mode", ["strict", "off"])
def test_where_nothing_of_a_publisher_s_may_go_it_is_noted_that_the_traffic_type_is_missing(mode):
    one = event(many(25) | {"traffic_type": "internal"})
    found = judged(one, mode=mode, added=["traffic_type"])
    assert found.event.params == many(25)
    assert found.broken == ()
    assert found.repaired == {"agent_param_dropped": 1}
    assert found.noted == {"traffic_type_left_out": 1}


@pytest.mark.parametrize("mode", ["strict", "off"])
def test_over_25_of_a_publisher_s_own_all_that_the_agent_adds_goes_and_nothing_else(mode):
    found = judged(event(many(27) | {"site": 1}), mode=mode, added=["site"], reserved=RESERVED)
    assert found.event.params == many(27)
    assert (found.room, found.repaired) == (frozenset(), {"agent_param_dropped": 3})
    assert [v.rule for v in found.broken] == ([Rule.TOO_MANY] if mode == "strict" else [])


def test_only_as_much_gives_way_as_is_too_much():
    found = judged(event(many(24) | {"site": 1, "event_id": "e"}), added=["site", "event_id"])
    assert found.event.params == many(24) | {"site": 1}


# -- debug_mode and personal data -------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_debug_mode_is_taken_out_unless_the_stream_debugs(mode):
    one = event({"debug_mode": 1, "x": 2})
    found = judged(one, mode=mode)
    assert (found.event.params, found.repaired) == ({"x": 2}, {"debug_mode": 1})
    assert judged(one, mode=mode, debug=True).event is one


@pytest.mark.parametrize("mode", MODES)
def test_personal_data_is_taken_out_unless_the_stream_keeps_it(mode):
    one = event({"mail": EMAIL, "x": 2})
    found = judged(one, mode=mode)
    assert (found.event.params, found.repaired) == ({"x": 2}, {"pii_suspected": 1})
    kept = judged(one, mode=mode, keep_pii=True)
    assert (kept.event, kept.repaired) == (one, {})


def test_what_is_taken_out_before_the_rules_needs_no_room():
    """25 params, one of them debug_mode: nobody has to give way."""
    found = judged(event(many(24) | {"debug_mode": 1, "site": 1}), added=["site"])
    assert found.event.params == many(24) | {"site": 1}
    assert found.repaired == {"debug_mode": 1}


def test_each_kind_is_counted_by_itself():
    params = {"a": EMAIL, "b": EMAIL, "debug_mode": True, "c": "x" * 101, "9d": 1}
    found = judged(event(params))
    assert found.repaired == {
        "pii_suspected": 2, "debug_mode": 1, "text_cut": 1, "param_dropped": 1,
    }  # fmt: skip


# -- algebra ----------------------------------------------------------------------------------------

names = st.sampled_from([f"p{n}" for n in range(40)] + ["9bad", "debug_mode", "transaction_id"])
values = st.one_of(st.integers(), st.text(max_size=120), st.just(EMAIL), st.booleans())
events = st.builds(
    event,
    st.dictionaries(names, values, max_size=35),
    name=st.sampled_from(["tap", "purchase", "bad name"]),
)


@given(events, st.sampled_from(MODES), st.integers(0, 6), st.booleans())
def test_of_the_agent_s_params_what_stays_has_room_and_what_goes_is_counted(
    one, mode, number, sessions
):
    """Whatever the mode, and whatever else is repaired."""
    added = {f"z{n}": n for n in range(number)}
    reserved = RESERVED if sessions else ()
    whole = event(dict(one.params) | added, name=one.name)
    found = judged(whole, mode=mode, added=list(added), reserved=reserved)
    stayed = [name for name in added if name in found.event.params]
    if found.broken and mode == "repair":
        assert "agent_param_dropped" not in found.repaired
        return
    assert stayed == list(added)[len(added) - len(stayed) :]
    agent = len(stayed) + len(found.room)
    assert not agent or len(found.event.params) + len(found.room) <= 25
    missing = number + len(reserved) - agent
    assert found.repaired.get("agent_param_dropped", 0) == missing
    if "session_id" not in found.room:
        assert "engagement_time_msec" not in found.room
    if found.room != frozenset(reserved):
        assert stayed == []


ORDER = ("event_id", "site", "machine", "engagement_time_msec", "session_id", "traffic_type")


@given(events, st.sampled_from(MODES), st.sets(st.sampled_from(ORDER)), st.randoms())
def test_what_gave_way_is_the_beginning_of_one_order_and_at_most_25_are_left(
    one, mode, names, random
):
    """But for a publisher's own over 25, in the modes that leave his alone."""
    reserved = [name for name in RESERVED if name in names]
    added = [name for name in ("site", "machine", "event_id", "traffic_type") if name in names]
    own = dict(one.params)
    whole = event(own | dict.fromkeys(added, "x"), name=one.name)
    found = judged(whole, mode=mode, added=added, reserved=random.sample(reserved, len(reserved)))
    if found.broken:
        return
    left = [n for n in ORDER if n in names and n in {*found.event.params, *found.room}]
    order = [name for name in ORDER if name in names]
    assert left == order[len(order) - len(left) :]
    number = len(found.event.params) + len(found.room)
    assert number <= (len(own) if mode == "off" and len(own) > 25 else 25)
    if mode == "repair" and "traffic_type" in names:
        assert "traffic_type" in found.event.params
        kept = found.event.params.keys() - set(ORDER)
        assert set(left) == {"traffic_type"} or kept == own.keys() - {"9bad", "debug_mode"} - {
            name for name, value in own.items() if value == EMAIL
        }


@given(events, st.sampled_from(MODES))
def test_what_is_not_refused_keeps_the_rules_that_its_mode_promises(one, mode):
    found = judged(one, mode=mode)
    broken = validate_event(found.event, stream="web", now_us=NOW)
    if mode != "off" and not found.broken:
        assert broken == ()
    if mode == "strict":
        assert tuple(found.broken) == broken
    assert EMAIL not in found.event.params.values()
    assert "debug_mode" not in found.event.params
