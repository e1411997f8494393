"""What the broker's persistent session holds, and what it denies."""

import logging

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from agent.intake.mqtt import ASK_AGAIN, Broker, MqttSource, Subscription
from tests.intake.publisher import Publisher
from tests.intake.rigs import Runner
from tests.intake.stored import events
from tests.mosquitto import Mosquitto
from tests.waiting import until


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as mosquitto:
        yield mosquitto


@pytest.fixture
def publisher(mosquitto):
    publisher = Publisher(mosquitto.port)
    yield publisher
    publisher.close()


@pytest.fixture
def make_source(door, mosquitto):
    def make(client_id, *topics, **parts):
        return MqttSource(
            door=door,
            broker=Broker(host="127.0.0.1", port=mosquitto.port, client_id=client_id),
            subscriptions=[Subscription(topic=topic) for topic in topics],
            reconnect_max=1.0,
            random=lambda: 0.0,
            **parts,
        )

    return make


def test_a_topic_that_left_the_configuration_is_unsubscribed(
    make_source, mosquitto, publisher, tmp_path
):
    remembered = []
    first = Runner(make_source("one", "old", "kept", remember=remembered.append))
    mosquitto.wait_said("Sending SUBACK to one")
    first.stop()
    assert set(remembered[0]) == {"old", "kept"}
    second = Runner(
        make_source("one", "kept", known_topics=remembered[-1], remember=remembered.append)
    )
    until(lambda: remembered[-1] == ["kept"], "the broker to have forgotten the topic")
    publisher.publish("old", b'{"name":"unwanted"}')
    publisher.publish("kept", b'{"name":"wanted"}')
    until(lambda: events(tmp_path), "the event")
    second.stop()
    assert [event.name for event in events(tmp_path)] == ["wanted"]


def test_until_the_broker_has_forgotten_it_a_topic_is_remembered(make_source):
    """A crash in between must not leave a subscription that nobody knows of."""
    remembered = []
    source = make_source("two", "new", known_topics=["old"], remember=remembered.append)
    runner = Runner(source)
    until(lambda: remembered, "the first list")
    assert set(remembered[0]) == {"new", "old"}
    runner.stop()


def test_a_clean_stop_warns_of_nothing(make_source, mosquitto, caplog):
    caplog.set_level(logging.WARNING)
    runner = Runner(make_source("three", "topic"))
    mosquitto.wait_said("Sending SUBACK to three")
    runner.stop()
    assert caplog.records == []


def test_a_denied_subscription_is_told_once_and_asked_for_again(make_source, caplog):
    caplog.set_level(logging.WARNING)
    now, asked = [0.0], []

    class Watching:
        def subscribe(self, topics):
            asked.append(topics)

    source = make_source("four", "mine", "theirs", monotonic=lambda: now[0])
    source.connected.set()
    granted = ReasonCode(PacketTypes.SUBACK, identifier=1)
    denied = ReasonCode(PacketTypes.SUBACK, identifier=0x87)
    for _ in range(2):
        source._on_subscribe(None, None, 1, [granted, denied], None)
    assert source.problem == "cannot subscribe: the broker denies theirs (Not authorized)"
    assert len(caplog.records) == 1
    source._look_after_topics(Watching())
    now[0] += ASK_AGAIN
    source._look_after_topics(Watching())
    assert len(asked) == 2
    source._on_subscribe(None, None, 2, [granted, granted], None)
    assert source.problem is None
    source._look_after_topics(Watching())
    assert len(asked) == 2
