"""A rule: what topic and payload become, and what is no event."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import Event, InvalidEvent, Priority, RawMessage, Stamp
from agent.intake.mapping import Rule
from agent.intake.parse import Draft, Misfit, Parsed, Shape
from agent.intake.sorting import Message, Sorter
from agent.template import TemplateError
from agent.topic import TopicFilter

STAMP = Stamp(1, 1, "b", trusted=True)
TOPIC = "kiosk/12/vend"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def rule(topic="kiosk/+site/#rest", *, params=None, user_properties=None, **texts):
    texts = {"name" if key == "event" else key: text for key, text in texts.items()}
    return Rule.read(
        TopicFilter.read(topic),
        texts=texts,
        params=params or {},
        user_properties=user_properties or {},
        streams=["main", "second"],
    )


def parsed(the_rule, payload, topic=TOPIC):
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return the_rule.parsed(data, Shape.ANY, topic)


def draft(the_rule, payload, topic=TOPIC):
    [element] = parsed(the_rule, payload, topic).elements
    assert isinstance(element, Draft), element.error
    return element


def misfit(the_rule, payload, topic=TOPIC):
    [element] = parsed(the_rule, payload, topic).elements
    assert isinstance(element, Misfit)
    return element.error


# One message, one event


def test_a_bare_value_becomes_an_event_with_what_the_topic_says():
    made = draft(
        rule(event="{rest}", params={"site": "{site}", "value": "{value}", "floor": 2}), b"21.5"
    )
    assert made.name == "vend"
    assert made.params == {"site": "12", "value": 21.5, "floor": 2}
    assert made.sender.named is False


def test_fields_of_the_payload_become_everything_an_event_can_say():
    made = draft(
        rule(
            event="{json.what}",
            params={"price": "{json.price}", "items": "{json.items}", "label": "{json.price} EUR"},
            client_id="{json.visitor}",
            user_id="u-{json.card}",
            user_properties={"tier": "{json.tier}", "site": "{site}", "n": 1},
            event_id="{json.sale}",
            actor="{json.who}",
            session="{json.does}",
            stream="{json.stream}",
            priority="{json.priority}",
        ),
        {
            "what": "vend", "price": 2.5, "items": [{"item_id": "a"}], "visitor": 4711, "card": 5,
            "tier": "gold", "sale": "s-1", "who": "human", "does": "start", "stream": "second",
            "priority": "high",
        },
    )  # fmt: skip
    assert made.name == "vend"
    assert made.params == {"price": 2.5, "items": [{"item_id": "a"}], "label": "2.5 EUR"}
    assert (made.sender.client_id, made.sender.user_id) == ("4711", "u-5")
    assert made.sender.user_properties == {
        "tier": {"value": "gold"}, "site": {"value": "12"}, "n": {"value": 1},
    }  # fmt: skip
    assert (made.event_id, made.actor, made.session) == ("s-1", "human", "start")
    assert (made.stream, made.priority) == ("second", Priority.HIGH)


def test_an_app_instance_id_comes_from_the_payload():
    made = draft(rule(event="e", app_instance_id="{json.id}"), {"id": "f" * 32})
    assert made.sender.app_instance_id == "f" * 32


def test_a_payload_that_no_template_reads_may_be_any_text():
    assert draft(rule(event="e", params={"topic": "{topic}"}), b"{no json").params == {
        "topic": TOPIC
    }


def test_what_may_be_missing_is_left_out():
    made = draft(
        rule(
            event="e",
            params={"a": "{json.a?}", "b": "{json.b?}"},
            client_id="{json.id?}",
            user_properties={"c": "{json.c?}"},
            priority="{json.p?}",
        ),
        {"a": None, "b": 0},
    )
    assert made.params == {"b": 0}
    assert made.sender.client_id is None
    assert made.sender.user_properties == {}
    assert made.priority is None


@pytest.mark.parametrize(
    ("keys", "payload", "told"),
    [
        ({"params": {"p": "{json.a}"}}, {}, "params.p: found nothing at json.a, expected a value"),
        ({"params": {"p": "{json.a}"}}, {"a": None}, "params.p: found nothing at json.a"),
        ({"params": {"p": "{json.a}"}}, [1], "params.p: found nothing at json.a"),
        ({"params": {"p": "{json.a}!"}}, {"a": {}}, "params.p: found an object at json.a"),
        ({"client_id": "{json.a}"}, {"a": 123.456}, "client_id: found a number with a fraction"),
        ({"client_id": "{json.a}"}, {"a": True}, "client_id: found true or false at json.a"),
        ({"client_id": "{json.a}"}, {"a": ""}, "client_id: found a text of 0 characters"),
        ({"user_id": "{json.a}"}, {"a": "x" * 257}, "user_id: found a text of 257 characters"),
        ({"event_id": "{json.a}"}, {"a": [1]}, "event_id: found an array at json.a"),
        ({"event": "{json.a}"}, {"a": 2.5}, "name: found a number with a fraction at json.a"),
        ({"event": "{json.a}"}, {"a": ""}, "name: found an empty text, expected the event's name"),
        ({"priority": "{json.a}"}, {"a": "urgent"}, 'priority: found a text, expected "high" or'),
        ({"actor": "{json.a}"}, {"a": "robot"}, "actor: found a text, expected"),
        ({"session": "{json.a}"}, {"a": "on"}, "session: found a text, expected"),
        ({"stream": "{json.a}"}, {"a": "x"}, "stream: found another text, expected one of main, "),
        (
            {"user_properties": {"u": "{json.a}"}},
            {"a": [1]},
            "user_properties.u: found an array, expected a text, a number, true or false",
        ),
    ],
)
def test_what_cannot_be_filled_is_a_misfit_with_the_reason(keys, payload, told):
    error = misfit(rule(**{"event": "e"} | keys), payload)
    assert str(error).startswith(told)


def test_a_misfit_keeps_the_whole_message():
    found = parsed(rule(event="e", params={"p": "{json.a}"}), b'{ "b" : 1 }')
    assert found.whole
    assert found.elements[0].payload == b'{ "b" : 1 }'


@pytest.mark.parametrize(
    ("keys", "payload", "told"),
    [
        ({"event": "e"}, b"\xff", "found bytes that are no UTF-8 at 0"),
        (
            {"event": "e", "params": {"p": "{value}"}},
            b"a\xff",
            "found bytes that are no UTF-8 at 1",
        ),
        ({"event": "e", "params": {"p": "{json.a}"}}, b"ON", "found no JSON"),
        (
            {"event": "e", "params": {"p": "{json.a}"}},
            b"\xff",
            "found bytes that are no UTF-8 at 0",
        ),
        ({"event": "e", "params": {"p": "{json.a}"}}, b"[" * 40 + b"]" * 40, "found JSON nested"),
        ({"params": {"p": "1"}}, b"ON", "found no JSON"),
        ({"params": {"p": "1"}}, b"[]", "found an empty array"),
    ],
)
def test_a_payload_that_cannot_be_read_is_malformed(keys, payload, told):
    with pytest.raises(InvalidEvent, match=told):
        parsed(rule(**keys), payload)


def test_a_message_of_another_topic_is_malformed():
    with pytest.raises(InvalidEvent, match="found another topic, expected one that fits kiosk/"):
        parsed(rule(event="e"), b"", topic="other")


# JSON events, with what the rule puts on them


def test_what_the_event_says_wins_over_the_mapping():
    the_rule = rule(
        params={"site": "{site}", "by": "rule"},
        user_id="rule",
        user_properties={"a": "rule", "b": "rule"},
        actor="machine",
        session="start",
        priority="low",
        stream="second",
    )
    said = {
        "name": "tap", "params": {"by": "event"}, "user_id": "event",
        "user_properties": {"a": {"value": "event"}}, "actor": "human", "session": "end",
        "priority": "high",
    }  # fmt: skip
    made = draft(the_rule, said)
    assert made.params == {"site": "12", "by": "event"}
    assert made.sender.user_id == "event"
    assert made.sender.user_properties == {"a": {"value": "event"}, "b": {"value": "rule"}}
    assert (made.actor, made.session, made.priority) == ("human", "end", Priority.HIGH)
    assert made.stream == "second"
    bare = draft(the_rule, {"name": "tap"})
    assert (bare.sender.user_id, bare.actor, bare.session) == ("rule", "machine", "start")
    assert bare.priority is Priority.LOW


def test_an_event_that_names_its_sender_gets_no_second_id():
    the_rule = rule(client_id="c-{site}", app_instance_id="{rest}")
    named = draft(the_rule, {"name": "tap", "client_id": "own"}).sender
    assert (named.client_id, named.app_instance_id) == ("own", None)
    app = draft(the_rule, {"name": "tap", "app_instance_id": "own"}).sender
    assert (app.client_id, app.app_instance_id) == (None, "own")
    nobody = draft(the_rule, {"name": "tap"}).sender
    assert (nobody.client_id, nobody.app_instance_id) == ("c-12", "vend")


def test_arrays_and_bodies_stay_what_they_are():
    the_rule = rule(params={"site": "{site}"})
    array = parsed(the_rule, [{"name": "a"}, 3, {"name": "b"}])
    assert [type(element) for element in array.elements] == [Draft, Misfit, Draft]
    assert not array.whole
    body = parsed(the_rule, {"client_id": "c", "events": [{"name": "a"}, {"name": "b"}]})
    assert body.whole
    assert [draft.params for draft in body.elements] == [{"site": "12"}] * 2
    assert {draft.sender.client_id for draft in body.elements} == {"c"}


def test_fields_are_those_of_the_payloads_top_level():
    the_rule = rule(params={"by": "{json.user_id}"})
    body = {"user_id": "u", "events": [{"name": "a"}, {"name": "b"}]}
    assert [made.params for made in parsed(the_rule, body).elements] == [{"by": "u"}] * 2
    assert str(misfit(the_rule, {"name": "a"})).startswith("params.by: found nothing")


# The rule itself, and its way through the sorter


def test_a_text_that_is_no_template_is_found_when_the_rule_is_made():
    with pytest.raises(TemplateError, match=r"found \{sote\}.*did you mean site"):
        rule(event="e", params={"p": "{sote}"})


def sort(message, streams, device):
    sorter = Sorter(streams=streams, device=device, params={}, new_id=lambda: "made")
    return sorter.sort(message, STAMP)


def message(payload, the_rule, **more):
    return Message(
        source="mqtt", payload=payload, topic=TOPIC, rule=the_rule, answerable=False, **more
    )


def test_a_mapped_message_is_completed_like_any_other(streams, device):
    the_rule = rule(event="temperature", params={"value": "{value}"})
    [event] = sort(message(b"21.5", the_rule, priority=Priority.LOW), streams, device).items
    assert isinstance(event, Event)
    assert event.sender.client_id == device.client_id
    assert (event.stream, event.priority, event.params) == ("main", Priority.LOW, {"value": 21.5})


@pytest.mark.parametrize(
    ("payload", "reason"), [(b'{"b":1}', "invalid"), (b"ON", "malformed"), (b"\xff", "malformed")]
)
def test_what_is_no_event_is_a_dead_letter_with_its_own_bytes(payload, reason, streams, device):
    the_rule = rule(event="e", params={"p": "{json.a}"})
    done = sort(message(payload, the_rule), streams, device)
    [error] = done.rejected
    assert done.items == (RawMessage("mqtt", reason, payload, STAMP, str(error)),)


def test_an_event_that_is_too_large_is_kept_as_it_came(streams, device):
    payload = b"x" * 140_000
    [letter] = sort(
        message(payload, rule(event="e", params={"p": "{value}"})), streams, device
    ).items
    assert isinstance(letter, RawMessage)
    assert payload.startswith(letter.payload)


def test_the_same_payload_of_another_topic_is_another_message():
    digests = {Message(source="mqtt", payload=b"ON", topic=t).digest for t in ("", "a", "b")}
    assert len(digests) == 3


# Algebra

TEXTS = st.sampled_from(["{json.a}", "{json.a?}", "x{json.a.0}", "{site}", "{topic}", "constant"])
BARE = st.sampled_from(["{value}", "v{value}", "{rest}", "constant"])
KEYS = ("client_id", "app_instance_id", "user_id", "event_id", "actor", "session", "stream",
        "priority")  # fmt: skip


@st.composite
def rules(draw):
    """Rules of all kinds, as the configuration lets them through."""
    texts = draw(st.sampled_from([TEXTS, BARE]))
    event = {"event": draw(texts)} if texts is BARE or draw(st.booleans()) else {}
    keys = draw(st.dictionaries(st.sampled_from(KEYS), texts, max_size=3))
    tables = st.dictionaries(st.sampled_from("pq"), texts | st.integers())
    return rule(**event, **keys, params=draw(tables), user_properties=draw(tables))


PAYLOADS = (
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps({"a": value, "name": "n", "events": value}).encode())
    | JSON.map(lambda value: json.dumps({"a": value}).encode())
    | JSON.map(lambda value: json.dumps([{"name": "n", "params": {"a": value}}, value]).encode())
)
TOPICS = st.just(TOPIC) | st.text().map("kiosk/{}/x".format) | st.text()


@given(the_rule=rules(), payload=PAYLOADS, topic=TOPICS)
def test_any_message_becomes_drafts_or_is_refused_with_a_reason(the_rule, payload, topic):
    try:
        found = the_rule.parsed(payload, Shape.ANY, topic)
    except InvalidEvent as error:
        told = [error]
    else:
        assert isinstance(found, Parsed)
        assert found.elements
        told = [element.error for element in found.elements if isinstance(element, Misfit)]
    assert all(error.description for error in told)


SECRET = "visitor-4711"


@given(
    the_rule=rules(),
    value=JSON.map(lambda value: [SECRET, value]) | st.just(SECRET) | st.just({"k": SECRET}),
)
def test_no_message_repeats_what_was_in_the_payload(the_rule, value):
    payload = json.dumps({"a": value} if the_rule.reads == "json" else value).encode()
    try:
        elements = the_rule.parsed(payload, Shape.ANY, TOPIC).elements
    except InvalidEvent as error:
        told = [str(error)]
    else:
        told = [str(element.error) for element in elements if isinstance(element, Misfit)]
    assert not any("4711" in text for text in told)
