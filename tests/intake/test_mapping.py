"""A rule: what topic and payload become, and what is no event."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import Event, InvalidEvent, Priority, RawMessage, Stamp, Stream
from agent.ga4.validate import validate
from agent.intake.attribution import Attribution, Device
from agent.intake.judging import Judge
from agent.intake.mapping import Rule
from agent.intake.message import Message
from agent.intake.parse import Draft, Misfit, Parsed, Shape
from agent.intake.sorting import Sorter
from agent.template import TemplateError
from agent.topic import TopicFilter

NOW = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z
STAMP = Stamp(NOW, 1, "b", trusted=True)
TOPIC = "kiosk/12/vend"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def rule(
    topic="kiosk/+site/#rest", *, params=None, user_properties=None, clock="publisher", **texts
):
    texts = {"name" if key == "event" else key: text for key, text in texts.items()}
    return Rule.read(
        TopicFilter.read(topic),
        texts=texts,
        params=params or {},
        user_properties=user_properties or {},
        streams=["main", "second"],
        clock=clock,
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
        (
            {"client_id": "{json.a}"},
            {"a": "x" * 1001},
            "client_id: found a text of 1001 characters",
        ),
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
    assert found.place(0) == ""
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


# Kinds: numbers, ids and amounts


@pytest.mark.parametrize(
    ("payload", "kept"), [(b"007", "007"), (b"2.50", "2.50"), (b"4711", "4711"), (b"1e5", "1e5")]
)
def test_a_bare_payload_is_an_id_with_every_letter_of_it(payload, kept):
    made = draft(
        rule(
            event="e",
            params={"item_id": "{value}"},
            user_properties={"tag_id": "{value}"},
            user_id="{value}",
        ),
        payload,
    )
    assert made.params == {"item_id": kept}
    assert made.sender.user_properties == {"tag_id": {"value": kept}}
    assert made.sender.user_id == kept


def test_an_id_of_the_payload_is_a_text_and_anything_else_keeps_its_kind():
    made = draft(
        rule(
            event="e",
            params={"machine_id": "{json.n}", "machine": "{json.n}", "part_id": "{json.t}", "s_id": 9},
        ),
        {"n": 17, "t": "007"},
    )  # fmt: skip
    assert made.params == {"machine_id": "17", "machine": 17, "part_id": "007", "s_id": "9"}
    assert "found a number with a fraction at json.n" in str(
        misfit(rule(event="e", params={"machine_id": "{json.n}"}), {"n": 17.5})
    )


@pytest.mark.parametrize("name", ["value", "price", "quantity", "tax", "shipping", "discount"])
def test_an_amount_is_a_number_in_every_event(name):
    the_rule = rule(event="vend", params={name: "{json.a}"})
    for said, number in (("2.50", 2.5), ("3", 3), (2.5, 2.5), (3, 3)):
        [made] = draft(the_rule, {"a": said}).params.values()
        assert (made, type(made)) == (number, type(number))
    for said in ("$19", "2,50", "", "ON", True, [2], {"a": 1}):
        error = misfit(the_rule, {"a": said})
        assert (error.field_path, error.code) == (f"params.{name}", "VALUE_INVALID")
        assert error.description.endswith(
            "expected a number such as 2.50, with a point and without a currency's sign; "
            "a field in cents fits as {json.FIELD:div100}"
        )


@pytest.mark.parametrize("name", ["level", "score"])
def test_what_measures_only_in_some_events_is_a_number_there(name):
    event = {"level": "level_up", "score": "post_score"}[name]
    assert draft(rule(event=event, params={name: "{json.a}"}), {"a": "7"}).params == {name: 7}
    assert misfit(rule(event=event, params={name: "{json.a}"}), {"a": "low"})
    assert draft(rule(event="battery", params={name: "{json.a}"}), {"a": "low"}).params == {
        name: "low"
    }


def test_an_amount_that_is_put_together_of_texts_is_a_number_too():
    made = draft(rule(event="e", params={"value": "{json.e}.{json.c}"}), {"e": 2, "c": "05"})
    assert made.params == {"value": 2.05}


def test_an_amount_that_may_be_missing_is_left_out():
    assert draft(rule(event="e", params={"value": "{json.a?:div100}"}), {}).params == {}


# Items

PRODUCTS = {"from": "json.products", "item_id": "{item.sku}", "price": "{item.cents:div100}",
            "quantity": "{item.n?}", "shop": "{json.shop}", "site": "{site}", "new": True}  # fmt: skip


def test_each_element_of_an_array_becomes_an_item():
    made = draft(
        rule(event="e", params={"items": PRODUCTS}),
        {
            "shop": "s",
            "products": [{"sku": "007", "cents": 250}, {"sku": 8, "cents": "199", "n": "2"}],
        },
    )
    more = {"shop": "s", "site": "12", "new": True}
    assert made.params["items"] == [
        {"item_id": "007", "price": 2.5, **more},
        {"item_id": "8", "price": 1.99, "quantity": 2, **more},
    ]


def test_the_payload_itself_can_be_the_array_and_its_elements_bare():
    made = draft(rule(event="e", params={"items": {"from": "json", "item_id": "{item}"}}), ["a", 7])
    assert made.params["items"] == [{"item_id": "a"}, {"item_id": "7"}]


def test_items_can_be_written_down_one_by_one():
    said = [
        {"item_id": "{json.slot}", "price": "{json.price}"},
        {"item_id": "{json.extra?}", "item_name": "{json.name?}"},
    ]
    both = draft(rule(event="e", params={"items": said}), {"slot": 4, "price": "2.5", "extra": "x"})
    assert both.params["items"] == [{"item_id": "4", "price": 2.5}, {"item_id": "x"}]
    one = draft(rule(event="e", params={"items": said}), {"slot": 4, "price": 2.5})
    assert one.params["items"] == [{"item_id": "4", "price": 2.5}]


def test_an_array_that_may_be_missing_makes_no_items():
    the_rule = rule(event="e", params={"items": {"from": "json.a?", "item_id": "{item}"}, "x": 1})
    for payload in ({}, {"a": None}, {"a": []}):
        assert draft(the_rule, payload).params == {"x": 1}


@pytest.mark.parametrize(
    ("payload", "place", "told", "code"),
    [
        ({}, "params.items", "found nothing at json.a, expected a value, or {json.a?}", "REQUIRED"),
        ({"a": []}, "params.items", "found an empty array at json.a, expected an array of 1 to 200", "INVALID"),
        ({"a": {"0": 1}}, "params.items", "found an object at json.a, expected an array", "INVALID"),
        ({"a": "x"}, "params.items", "found a text at json.a, expected an array of", "INVALID"),
        ({"a": [{"i": 1}] * 201}, "params.items", "found 201 elements at json.a, expected", "EXCEEDED"),
        ({"a": [{"i": 1}, {}]}, "params.items[1].item_id", "found nothing at item.i", "REQUIRED"),
        ({"a": [{"i": 1.5}]}, "params.items[0].item_id", "found a number with a fraction", "INVALID"),
        ({"a": [{"i": 1, "p": "$2"}]}, "params.items[0].price", "found a text that is no", "INVALID"),
        ({"a": [7]}, "params.items[0].item_id", "found nothing at item.i", "REQUIRED"),
    ],
)  # fmt: skip
def test_an_array_that_makes_no_items_says_why(payload, place, told, code):
    items = {"from": "json.a", "item_id": "{item.i}", "price": "{item.p?}"}
    error = misfit(rule(event="e", params={"items": items}), payload)
    assert error.field_path == place
    assert error.description.startswith(told)
    assert code in error.code


def test_items_are_put_on_json_events_without_their_own():
    the_rule = rule(params={"items": {"from": "json.products", "item_id": "{item}"}})
    body = {"client_id": "1.2", "events": [{"name": "a"}, {"name": "b", "params": {"items": [1]}}]}
    error = misfit(the_rule, {"events": [{"name": "a"}]})
    assert str(error).startswith("params.items: found nothing at json.products")
    the_rule = rule(params={"items": [{"item_id": "{site}"}]})
    made = parsed(the_rule, body).elements
    assert [each.params["items"] for each in made] == [[{"item_id": "12"}], [1]]


SALE = {
    "sale": 4711,
    "cur": "EUR",
    "total": 449,
    "lines": [{"slot": "B4", "name": "Water", "cents": 150}, {"slot": 7, "cents": "299", "n": 1}],
}


def test_a_purchase_that_ga4_finds_nothing_wrong_with_comes_from_a_vending_machine():
    the_rule = rule(
        event="purchase",
        event_id="{json.sale}",
        params={
            "transaction_id": "{json.sale}",
            "value": "{json.total:div100}",
            "currency": "{json.cur}",
            "items": {
                "from": "json.lines",
                "item_id": "{item.slot}",
                "item_name": "{item.name?}",
                "price": "{item.cents:div100}",
                "quantity": "{item.n?:int}",
            },
        },
    )
    made = draft(the_rule, SALE)
    assert made.params == {
        "transaction_id": "4711",
        "value": 4.49,
        "currency": "EUR",
        "items": [
            {"item_id": "B4", "item_name": "Water", "price": 1.5},
            {"item_id": "7", "price": 2.99, "quantity": 1},
        ],
    }
    body = {"client_id": "1.2", "events": [{"name": made.name, "params": dict(made.params)}]}
    assert validate(body, stream="web", now_us=NOW) == ()


# The publisher's time


@pytest.mark.parametrize(
    "said", [1767268800, 1767268800000, "1767268800.000", "2026-01-01T14:00:00+02:00"]
)
@pytest.mark.parametrize("clock", ["publisher", "device"])
def test_a_field_says_when_it_happened(said, clock):
    made = draft(rule(event="e", time="{json.ts}", clock=clock), {"ts": said})
    assert made.time_us == NOW
    assert made.local_time is (clock == "device")


def test_a_time_is_put_together_of_texts_or_a_bare_payload():
    made = draft(rule(event="e", time="{json.d}T{json.t}Z"), {"d": "2026-01-01", "t": "12:00"})
    assert made.time_us == NOW
    assert draft(rule(event="e", time="{value}"), b"1767268800").time_us == NOW


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (300, "found a time before 2001, as of a clock that was never set"),
        ("2026-01-01T12:00:00", "found a time without its zone"),
        ("", "found an empty text"),
        (4711.0, "found a time before 2001"),
        ([1], "found an array"),
    ],
)
def test_what_is_no_time_is_a_misfit(said, told):
    error = misfit(rule(event="e", time="{json.ts}"), {"ts": said})
    assert error.field_path == "time"
    assert error.description.startswith(told)


def test_a_clock_of_this_device_may_stand_in_1970():
    made = draft(rule(event="e", time="{json.ts}", clock="device"), {"ts": 300})
    assert (made.time_us, made.local_time) == (300_000_000, True)


def test_a_message_need_not_say_its_time():
    assert draft(rule(event="e", time="{json.ts?}"), {}).time_us is None
    assert misfit(rule(event="e", time="{json.ts}"), {}).code == "VALUE_REQUIRED"


def test_times_of_json_events_are_of_the_same_clock():
    stamped = {"name": "a", "timestamp_micros": 5}
    for clock, local in (("publisher", False), ("device", True)):
        made = draft(rule(clock=clock), stamped)
        assert (made.time_us, made.local_time) == (5, local)
    under = rule(time="{json.ts}")
    body = {"events": [stamped, {"name": "b"}], "timestamp_micros": None}
    assert misfit(under, body).field_path == "time"


# Keys that become ids, and are not kept


def test_a_key_is_taken_from_the_message_and_is_not_among_what_is_kept():
    made = draft(
        rule(event="e", client_key="{json.card}", params={"x": "{json.x}"}), {"card": 7731, "x": 1}
    )
    assert made.client_key == "7731"
    assert "7731" not in repr(made)
    assert "7731" not in json.dumps(dict(made.said))


def test_an_event_that_says_whose_it_is_needs_no_key_of_the_rule():
    the_rule = rule(client_id="{site}")
    keyed = draft(the_rule, {"name": "a", "client_key": "own"})
    assert (keyed.client_key, keyed.sender.client_id) == ("own", None)
    the_rule = rule(client_key="{site}")
    assert draft(the_rule, {"name": "a", "client_key": "own"}).client_key == "own"
    assert draft(the_rule, {"name": "a"}).client_key == "12"


@pytest.mark.parametrize(
    ("key", "payload", "kept"),
    [
        ("{json.card}", b'{"card":"7731","b":1}', b'{"b":1}'),
        ("{json.a.0.card?}", b'{"a":[{"card":"7731","c":2},3]}', b'{"a":[{"c":2},3]}'),
        ("{json.a.1}", b'{"a":[1,"7731"]}', b'{"a":[1]}'),
        ("{json.card}", b'{"card":"7731","card":"x7731"}', b"{}"),
        ("{json.card}", b'{"card":"7731"', b""),
        ("{json.card}", b'{"b":1,"client_key":"7731"}', b'{"b":1}'),
        ("{value}", b"7731", b""),
        ("{site}", b'{"b":1}', b'{"b":1}'),
    ],
)
def test_a_message_is_kept_without_the_key_that_is_read_from_it(key, payload, kept):
    the_rule = rule(event="e", client_key=key)
    assert the_rule.without_unkept(payload) == kept


def test_a_misfit_does_not_keep_the_key():
    found = parsed(
        rule(event="e", client_key="{json.card}", params={"p": "{json.p}"}), {"card": "7731"}
    )
    assert found.elements[0].payload == b"{}"


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


def sort(message):
    streams = {
        name: Stream(name=name, endpoint="https://www.google-analytics.com", measurement_id="G-1")
        for name in ("main", "second")
    }
    device = Device(
        client_id="77.88", user_properties={}, consent={}, hardware={}, location={}
    )  # fmt: skip
    sorter = Sorter(
        streams=streams,
        judges=dict.fromkeys(streams, Judge()),
        attribution=Attribution(device=device),
        params={},
        new_id=lambda: "made",
        local=lambda _: STAMP,
        now_us=lambda: NOW,
    )
    return sorter.sort(message, STAMP)


def message(payload, the_rule, **more):
    return Message(
        source="mqtt", payload=payload, topic=TOPIC, rule=the_rule, answerable=False, **more
    )


def test_a_mapped_message_is_completed_like_any_other():
    the_rule = rule(event="temperature", params={"celsius": "{value}"})
    [event] = sort(message(b"21.5", the_rule, priority=Priority.LOW)).stored
    assert isinstance(event, Event)
    assert event.sender.client_id == "77.88"
    assert (event.stream, event.priority, event.params["celsius"]) == ("main", Priority.LOW, 21.5)


@pytest.mark.parametrize(
    ("payload", "reason"), [(b'{"b":1}', "invalid"), (b"ON", "malformed"), (b"\xff", "malformed")]
)
def test_what_is_no_event_is_a_dead_letter_with_its_own_bytes(payload, reason):
    the_rule = rule(event="e", params={"p": "{json.a}"})
    done = sort(message(payload, the_rule))
    [error] = done.rejected
    assert done.stored == (RawMessage("mqtt", reason, payload, STAMP, str(error)),)


def test_the_same_payload_of_another_topic_is_another_message():
    digests = {Message(source="mqtt", payload=b"ON", topic=t).digest for t in ("", "a", "b")}
    assert len(digests) == 3


# Algebra

TEXTS = st.sampled_from(
    [
        "{json.a}",
        "{json.a?}",
        "x{json.a.0}",
        "{json.a?:int}",
        "{json.a:div100}",
        "{site}",
        "{topic}",
    ]
)
OF_ITEM = TEXTS | st.sampled_from(["{item}", "{item.a?}", "{item.a:bool}", "{item.0}"])
BARE = st.sampled_from(["{value}", "v{value}", "{value:float}", "{rest}", "constant"])
KEYS = ("client_id", "client_key", "app_instance_id", "user_id", "event_id", "actor", "session",
        "stream", "priority", "time")  # fmt: skip
NAMES = st.sampled_from(["p", "q", "value", "p_id", "quantity"])


@st.composite
def rules(draw):
    """Rules of all kinds, as the configuration lets them through."""
    texts = draw(st.sampled_from([TEXTS, BARE]))
    event = {"event": draw(texts)} if texts is BARE or draw(st.booleans()) else {}
    keys = draw(st.dictionaries(st.sampled_from(KEYS), texts, max_size=3))
    tables = st.dictionaries(NAMES, texts | st.integers(), max_size=3)
    params = draw(tables)
    if texts is TEXTS and draw(st.booleans()):
        made = st.dictionaries(NAMES, OF_ITEM, min_size=1, max_size=2)
        params |= {"items": {"from": draw(st.sampled_from(["json", "json.a?"])), **draw(made)}}
    clock = draw(st.sampled_from(["device", "publisher"]))
    return rule(**event, **keys, params=params, user_properties=draw(tables), clock=clock)


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
