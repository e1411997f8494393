"""Mapped messages through a real broker: from the configuration to the event in the queue."""

import uuid

import pytest

from agent import wiring
from agent.config import parse
from agent.event import Priority
from agent.intake.mqtt import Broker, MqttSource, Subscription
from tests.intake.publisher import Publisher
from tests.intake.rigs import Runner
from tests.intake.stored import events, letters
from tests.waiting import until

STREAMS = '[stream.main]\nmeasurement_id = "G-MAIN"\n[stream.second]\nmeasurement_id = "G-SECOND"\n'
MQTT = f'{STREAMS}[mqtt]\nhost = "127.0.0.1"\n'


def subscriptions(text):
    config = parse(f"{MQTT}{text}", name="F")
    return wiring.subscriptions(config.mqtt, config.stream)


def said(event):
    """What the message said, without what the agent adds."""
    added = ("event_id", "session_id", "engagement_time_msec")
    return {name: value for name, value in event.params.items() if name not in added}


@pytest.fixture
def publish(door, broker):
    """Run a source with a mapping on topics below ROOT, and publish there."""
    runners = []
    root = f"map-{uuid.uuid4().hex}"

    def start(text):
        made = subscriptions(text.replace("ROOT", root))
        source = MqttSource(
            door=door,
            broker=Broker(host="127.0.0.1", port=broker.port, client_id=root),
            subscriptions=made,
            reconnect_max=1.0,
            random=lambda: 0.0,
        )
        runners.append(Runner(source))
        broker.wait_said(f"Sending SUBACK to {root}")
        publisher = Publisher(broker.port)
        runners.append(publisher)
        return lambda topic, payload, **more: publisher.publish(f"{root}/{topic}", payload, **more)

    yield start
    for part in reversed(runners):
        part.close() if isinstance(part, Publisher) else part.stop()


def test_a_bare_value_of_a_named_topic_is_an_event_in_the_queue(publish, tmp_path):
    say = publish(
        """
        [[mqtt.subscriptions]]
        topic = "ROOT/+room/#what"
        event = "{what}"
        params = { state = "{value}", room = "{room}" }
        actor = "machine"
        priority = "low"
        """
    )
    say("hall/temperature", b"21.5")
    say("hall/light", b"ON")
    until(lambda: len(events(tmp_path)) == 2, "the events")
    first, second = events(tmp_path)
    assert (first.name, said(first)) == ("temperature", {"state": 21.5, "room": "hall"})
    assert (second.name, said(second)) == ("light", {"state": "ON", "room": "hall"})
    assert (first.actor, first.priority) == ("machine", Priority.LOW)
    assert first.sender.client_id == "77.88"


def test_names_go_with_a_shared_subscription(publish, tmp_path):
    say = publish(
        """
        [[mqtt.subscriptions]]
        topic = "$share/group/ROOT/+site/vend"
        event = "vend"
        params = { site = "{site}", price = "{json.price}" }
        client_id = "{json.visitor?}"
        stream = "{json.stream}"
        """
    )
    say("12/vend", b'{"price":2.5,"visitor":4711,"stream":"second"}')
    say("12/vend", b'{"stream":"main"}')
    until(lambda: letters(tmp_path), "the dead letter")
    [event] = events(tmp_path)
    assert (said(event), event.stream) == ({"site": "12", "price": 2.5}, "second")
    assert event.sender.client_id == "4711"
    [letter] = letters(tmp_path)
    assert (letter.reason, letter.payload) == ("invalid", b'{"stream":"main"}')


def test_a_sale_of_a_vending_machine_is_a_purchase_in_the_queue(publish, tmp_path):
    say = publish(
        """
        [[mqtt.subscriptions]]
        topic = "ROOT/+machine/sale"
        event = "purchase"
        time = "{json.ts}"

        [mqtt.subscriptions.params]
        transaction_id = "{machine}-{json.sale}"
        value = "{json.total:div100}"
        currency = "EUR"
        items = { from = "json.lines", item_id = "{item.slot}", price = "{item.cents:div100}" }
        """
    )
    sale = b'{"sale":4711,"ts":"2026-01-01T14:00:00+02:00","total":"449","lines":'
    say("17/sale", sale + b'[{"slot":"007","cents":150},{"slot":8,"cents":"299"}]}')
    say("17/sale", sale + b'[{"slot":"007","cents":"1,50"}]}')
    until(lambda: letters(tmp_path), "the dead letter")
    [event] = events(tmp_path)
    assert event.name == "purchase"
    assert event.time_us == 1_767_268_800_000_000
    assert said(event) == {
        "transaction_id": "17-4711",
        "value": 4.49,
        "currency": "EUR",
        "items": [{"item_id": "007", "price": 1.5}, {"item_id": "8", "price": 2.99}],
    }
    [letter] = letters(tmp_path)
    assert "params.items[0].price: found a text that is no number at item.cents" in letter.why


def test_without_a_mapping_a_subscription_has_no_rule_whatever_its_wildcards_are_called():
    [plain, named] = subscriptions(
        """
        [[mqtt.subscriptions]]
        topic = "a/+/b"
        stream = "second"
        priority = "high"
        [[mqtt.subscriptions]]
        topic = "$share/g/c/+site/#rest"
        retained = true
        """
    )
    assert plain == Subscription(topic="a/+/b", stream="second", priority=Priority.HIGH)
    assert named == Subscription(topic="$share/g/c/+/#", retained=True)


def test_what_a_message_decides_is_the_rules_and_the_rest_stays_with_the_subscription():
    [both] = subscriptions(
        """
        [[mqtt.subscriptions]]
        topic = "+where/x"
        stream = "{where}"
        priority = "high"
        """
    )
    assert (both.stream, both.priority) == (None, Priority.HIGH)
    assert both.rule is not None
    assert list(both.rule.texts) == ["stream"]
