"""MQTT in, against a real mosquitto: sessions, logins, TLS, outages, acknowledgements."""

import contextlib
import itertools
import logging
import shutil
import ssl
import subprocess
import threading
import tracemalloc
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import Client, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent import wiring
from agent.event import Priority
from agent.intake.mqtt import (
    BATCH_BYTES,
    FIRST_WAIT,
    PAYLOAD_MAX,
    Broker,
    MqttSource,
    Subscription,
    Tls,
    _matches,
)
from agent.intake.parse import RAW_MAX
from agent.intake.source import SourceUnavailable
from agent.progress import Progress
from agent.queue.entries import SourceState
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.queue.reader import read_snapshot
from agent.secret import Secret
from tests.intake.publisher import Publisher
from tests.intake.relay import Relay
from tests.intake.rigs import Runner, fill_up
from tests.intake.stored import events, letters
from tests.mosquitto import Mosquitto, program
from tests.waiting import free_port, until

PROTOCOLS = ["3.1.1", "5"]
TAP = b'{"name":"tap"}'


def numbered(number, **more):
    fields = "".join(f',"{key}":"{value}"' for key, value in more.items())
    return f'{{"name":"tap","event_id":"e{number}"{fields}}}'.encode()


class Agent:
    """A source, to be started and stopped at will, that is always the same client."""

    def __init__(self, door, port, *, broker=None, subscriptions=None, **options):
        self.client_id = f"agent-{uuid.uuid4().hex}"
        self.topic = f"{self.client_id}/events"
        self.mosquitto = broker
        self._door = door
        self._port = port
        self._options = options
        self.subscriptions = subscriptions or [Subscription(topic=self.topic)]
        self._runner = None

    def make_source(self, **parts):
        defaults = {
            "door": self._door,
            "broker": Broker(
                host="127.0.0.1", port=self._port, client_id=self.client_id, **self._options
            ),
            "subscriptions": self.subscriptions,
            "reconnect_max": 1.0,
            "random": lambda: 0.0,
        }
        return MqttSource(**defaults | parts)

    def start(self):
        """Start without waiting for anything."""
        self.source = self.make_source()
        self._runner = Runner(self.source)

    def join(self):
        """Start and wait until it is subscribed."""
        before = self.subscribed
        self.start()
        until(lambda: self.subscribed > before, "the subscription")

    @property
    def subscribed(self):
        return self.mosquitto.said(f"Sending SUBACK to {self.client_id}")

    def stop(self, wake=lambda: None):
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner.stop(wake)

    def close(self):
        """Stop it; where anybody may publish, a message spares the wait until it looks up."""
        self.stop(lambda: None if self._options.keys() & {"tls", "username"} else self._poke())

    def _poke(self):
        with contextlib.suppress(OSError), Publisher(self._port) as publisher:
            publisher.publish(self.topic, b"?", qos=0)


@pytest.fixture
def make_agent(door):
    """Makes agents; they are stopped at the end."""
    agents = []

    def make(broker, *, port=None, **options):
        the_door = options.pop("door", door)
        agents.append(Agent(the_door, port or broker.port, broker=broker, **options))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.fixture
def publisher(broker):
    with Publisher(broker.port) as publisher:
        yield publisher


class Site(NamedTuple):
    """What a test of acknowledgements looks at: the broker, who publishes, the queue's file."""

    broker: Mosquitto
    publisher: Publisher
    queue: EventQueue
    directory: Path


@pytest.fixture
def site(broker, publisher, queue, tmp_path):
    return Site(broker, publisher, queue, tmp_path)


@pytest.fixture
def make_relay():
    relays = []

    def make(*args, **options):
        relays.append(Relay(*args, **options))
        return relays[-1]

    yield make
    for relay in relays:
        relay.close()


def found(directory):
    return [event.event_id for event in events(directory)]


# -- sessions and outages -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_published_while_the_agent_was_away_arrives(
    make_agent, broker, publisher, tmp_path, protocol
):
    agent = make_agent(broker, protocol=protocol)
    agent.join()
    agent.stop()
    broker.wait_said(f"Received DISCONNECT from {agent.client_id}")
    publisher.publish(agent.topic, *[numbered(i) for i in range(5)])
    assert found(tmp_path) == []
    agent.join()
    until(lambda: len(found(tmp_path)) == 5, "the messages")
    assert found(tmp_path) == [f"e{i}" for i in range(5)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_acknowledged_does_not_come_again(
    make_agent, broker, publisher, tmp_path, protocol
):
    agent = make_agent(broker, protocol=protocol)
    agent.join()
    publisher.publish(agent.topic, numbered(1))
    broker.wait_said(f"Received PUBACK from {agent.client_id}")
    agent.stop()
    agent.join()
    publisher.publish(agent.topic, numbered(2))
    until(lambda: "e2" in found(tmp_path), "the second message")
    assert found(tmp_path) == ["e1", "e2"]


def test_a_broker_that_is_missing_at_the_start_may_come_later(make_agent, tmp_path):
    broker = Mosquitto(tmp_path / "broker")
    agent = make_agent(broker)
    agent.start()
    refused = f"cannot reach the broker 127.0.0.1:{broker.port}: Connection refused"
    until(lambda: agent.source.problem == refused, "the problem to be told")
    with broker, contextlib.ExitStack() as stack:
        until(lambda: agent.subscribed, "the subscription")
        assert agent.source.problem is None
        stack.enter_context(Publisher(broker.port)).publish(agent.topic, numbered(1))
        until(lambda: found(tmp_path) == ["e1"], "the message")
        agent.stop()


def test_a_broker_may_be_stopped_and_started_again(make_agent, tmp_path):
    broker = Mosquitto(tmp_path / "broker")
    agent = make_agent(broker)
    with broker:
        agent.join()
        with Publisher(broker.port) as publisher:
            publisher.publish(agent.topic, numbered(1))
        until(lambda: found(tmp_path) == ["e1"], "the first message")
        broker.stop()
        until(lambda: agent.source.problem, "the loss to be noticed")
        broker.start()
        until(lambda: agent.subscribed == 2, "the second subscription")
        with Publisher(broker.port) as publisher:
            publisher.publish(agent.topic, numbered(2))
        until(lambda: found(tmp_path) == ["e1", "e2"], "the second message")
        agent.stop()


def test_a_broken_connection_is_made_again_and_nothing_is_lost(
    make_agent, make_relay, broker, publisher, tmp_path
):
    relay = make_relay(broker.port)
    agent = make_agent(broker, port=relay.port)
    agent.join()
    for round_ in range(2):
        relay.cut()
        publisher.publish(agent.topic, numbered(round_))
        until(lambda: f"e{round_}" in found(tmp_path), "the message after the cut")  # noqa: B023 - called at once
    assert set(found(tmp_path)) == {"e0", "e1"}


def test_a_topic_that_is_subscribed_no_more_keeps_coming_with_the_defaults(
    make_agent, broker, publisher, tmp_path
):
    """The broker's session still has it: better taken than lost."""
    agent = make_agent(broker)
    main, other = agent.subscriptions[0], f"{agent.client_id}/other"
    agent.subscriptions = [main, Subscription(topic=other, stream="second")]
    agent.join()
    publisher.publish(other, numbered(1))
    until(lambda: len(found(tmp_path)) == 1, "the message on the subscribed topic")
    agent.stop()
    agent.subscriptions = [main]
    agent.join()
    publisher.publish(other, numbered(2))
    until(lambda: len(found(tmp_path)) == 2, "the message on the former topic")
    assert [event.stream for event in events(tmp_path)] == ["second", "main"]


# -- logins and certificates --------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A broker that lets in the user kiosk with the password t0p-7731 and nobody else."""
    directory = tmp_path_factory.mktemp("guarded")
    passwords = directory / "passwords"
    subprocess.run(
        [program("mosquitto_passwd"), "-b", "-c", passwords, "kiosk", "t0p-7731"], check=True
    )
    options = f"allow_anonymous false\npassword_file {passwords}"
    with Mosquitto(directory, options) as broker:
        yield broker


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_right_password_lets_in(make_agent, guarded, tmp_path, protocol):
    agent = make_agent(guarded, protocol=protocol, username="kiosk", password=Secret("t0p-7731"))
    agent.join()
    with Publisher(guarded.port, login=("kiosk", "t0p-7731")) as publisher:
        publisher.publish(agent.topic, numbered(1))
        until(lambda: found(tmp_path) == ["e1"], "the message")
    assert agent.source.problem is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "login",
    [
        {"username": "kiosk", "password": Secret("wrong-7731")},
        {"username": "nobody", "password": Secret("t0p-7731")},
        {"username": "kiosk"},
        {},
    ],
)
def test_a_wrong_login_is_told_without_the_password(make_agent, guarded, caplog, protocol, login):
    caplog.set_level(logging.DEBUG)
    agent = make_agent(guarded, protocol=protocol, **login)
    agent.start()
    beginning = f"cannot log in to the broker 127.0.0.1:{guarded.port}: it said "
    until(lambda: agent.source.problem.startswith(beginning), "the problem to be told")
    assert agent.source.problem.endswith("Not authorized")
    agent.stop()
    assert beginning in caplog.text
    assert "7731" not in caplog.text


class Certificates:
    """A certificate authority, and files of what it issued."""

    def __init__(self, directory):
        directory.mkdir()
        authority = trustme.CA()
        self.authority = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("kiosk.lan")
        self.server, self.server_key = self._write(directory / "server", server)
        self.client, self.client_key = self._write(directory / "client", client)

    def context(self):
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.client, self.client_key)
        return context

    @staticmethod
    def _write(path, issued):
        certificate, key = path.with_suffix(".crt"), path.with_suffix(".key")
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def strict(certificates, tmp_path_factory):
    """A broker that speaks TLS only, and only with those who have a certificate."""
    options = (
        f"cafile {certificates.authority}\ncertfile {certificates.server}\n"
        f"keyfile {certificates.server_key}\nrequire_certificate true\nallow_anonymous true"
    )
    with Mosquitto(tmp_path_factory.mktemp("strict"), options) as broker:
        yield broker


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_with_an_own_authority_and_a_client_certificate(
    make_agent, strict, certificates, tmp_path, protocol
):
    tls = Tls(
        ca_file=certificates.authority,
        certificate_file=certificates.client,
        key_file=certificates.client_key,
    )
    agent = make_agent(strict, protocol=protocol, tls=tls)
    agent.join()
    with Publisher(strict.port, context=certificates.context()) as publisher:
        publisher.publish(agent.topic, *[numbered(i) for i in range(200)])
        until(lambda: len(found(tmp_path)) == 200, "the messages")
    assert set(found(tmp_path)) == {f"e{i}" for i in range(200)}


# paho leaves the socket of a failed TLS handshake to the garbage collector.
PAHO_LEAKS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)


@PAHO_LEAKS
def test_a_broker_of_another_authority_is_not_spoken_to(make_agent, strict, tmp_path):
    other = Certificates(tmp_path / "other")
    agent = make_agent(strict, tls=Tls(ca_file=other.authority))
    agent.start()
    until(lambda: "CERTIFICATE_VERIFY_FAILED" in agent.source.problem, "the problem to be told")
    assert agent.source.problem.startswith(f"cannot reach the broker 127.0.0.1:{strict.port}: ")


@PAHO_LEAKS
def test_a_broker_that_wants_a_certificate_is_told_as_the_reason(make_agent, strict, certificates):
    """TLS 1.3 says so only after the handshake; the person on the phone must hear of it."""
    agent = make_agent(strict, tls=Tls(ca_file=certificates.authority))
    agent.start()
    until(lambda: not agent.source.problem.startswith("not yet"), "the problem to be told", 5)
    assert not agent.source.connected.is_set()


@PAHO_LEAKS
def test_a_broker_without_tls_is_told_as_the_reason(make_agent, broker, certificates):
    agent = make_agent(broker, tls=Tls(ca_file=certificates.authority))
    agent.start()
    until(lambda: agent.source.problem.startswith("cannot reach"), "the problem to be told")


@pytest.mark.parametrize("broken", ["ca_file", "certificate_file", "key_file"])
def test_bad_certificate_files_make_the_source_unavailable_and_are_named(
    make_agent, strict, certificates, tmp_path, broken
):
    files = {
        "ca_file": certificates.authority,
        "certificate_file": certificates.client,
        "key_file": certificates.client_key,
    }
    missing, bad = tmp_path / "missing.pem", tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for path in (missing, bad):
        source = make_agent(strict, tls=Tls(**files | {broken: path})).make_source()
        with pytest.raises(SourceUnavailable) as caught:
            source.run(threading.Event(), Progress(name="mqtt", patience=60))
        assert str(caught.value).startswith("cannot use the certificates for MQTT (")
        assert str(path) in str(caught.value)


def test_certificate_files_that_are_mended_let_the_source_start(
    make_agent, strict, certificates, tmp_path
):
    authority = tmp_path / "ca.pem"
    tls = Tls(
        ca_file=authority,
        certificate_file=certificates.client,
        key_file=certificates.client_key,
    )
    agent = make_agent(strict, tls=tls)
    agent.start()
    until(lambda: agent._runner.worker.problem, "the source being unavailable")
    shutil.copy(certificates.authority, authority)
    until(lambda: agent.subscribed, "the subscription")


# -- the broker's session -----------------------------------------------------------------------


def reset_session(broker, client_id, protocol):
    """What the broker keeps for the agent is gone, as after a broker's own loss of its store."""
    mqtt5 = protocol == "5"
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if mqtt5 else True,
        protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
    )
    client.connect("127.0.0.1", broker.port, **({"clean_start": True} if mqtt5 else {}))
    client.loop_start()
    until(client.is_connected, "the connection that resets the session")
    client.disconnect()
    client.loop_stop()


class Names:
    """Names the broker's sessions, and refuses it at first if told so. It notes when."""

    def __init__(self, subscribed):
        self.made = []
        self.refusals = 0
        self.on_refusal = lambda: None
        self.tried_at = []
        self._subscribed = subscribed

    def __call__(self):
        self.tried_at.append(self._subscribed())
        if self.refusals:
            self.refusals -= 1
            self.on_refusal()
            raise StorageError("disk_full", "cannot write the queue: the disk is full")
        self.made.append(f"session-{len(self.made)}")
        return self.made[-1]


@pytest.fixture
def named_agent(make_agent, broker):
    """An agent that keeps the name of its session from run to run, and the names it made."""

    def make(protocol):
        agent = make_agent(broker, protocol=protocol)
        names = Names(lambda: agent.subscribed)
        plain = agent.make_source
        agent.make_source = lambda: plain(
            session=names.made[-1] if names.made else "", begin_session=names
        )
        return agent, names

    return make


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_new_session_of_the_broker_gets_a_name_before_it_is_subscribed_and_keeps_it(
    named_agent, broker, protocol
):
    agent, names = named_agent(protocol)
    agent.join()
    assert (len(names.made), names.tried_at) == (1, [0])
    agent.stop()
    agent.join()
    assert len(names.made) == 1
    agent.stop()
    reset_session(broker, agent.client_id, protocol)
    agent.join()
    assert (len(names.made), names.tried_at) == (2, [0, 2])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_after_the_loss_of_the_session_an_old_id_with_an_old_payload_is_a_new_message(
    named_agent, site, protocol
):
    """Its first delivery was cut, so that it comes again at once: as if it had come before."""
    agent, _ = named_agent(protocol)
    agent.join()
    site.publisher.publish(agent.topic, TAP)
    until(lambda: len(events(site.directory)) == 1, "the first message")
    agent.stop()
    reset_session(site.broker, agent.client_id, protocol)
    cut_first_delivery(agent, site, protocol)
    agent.join()
    until(lambda: counted(site.queue) == 2, "the second message")
    assert len(events(site.directory)) == 2
    assert site.broker.said(f"Sending PUBLISH to {agent.client_id} (d1, q1, r0, m1,") == 1


def cut_first_delivery(agent, site, protocol):
    """A new session gets a message that the agent does not live to commit."""
    source = agent.make_source()
    client, stop = source._client(), threading.Event()
    until(lambda: source.take_once(client, stop) or agent.subscribed == 2, "the new session")
    site.publisher.publish(agent.topic, TAP)
    deliveries = f"Sending PUBLISH to {agent.client_id} (d0, q1, r0, m1,"
    site.broker.wait_said(deliveries, 2)
    client.socket().close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_in_the_same_session_a_message_that_is_delivered_again_is_a_duplicate(
    named_agent, site, make_relay, protocol
):
    agent, names = named_agent(protocol)
    taken = threading.Event()
    relay = make_relay(site.broker.port, on_puback=lambda: cut_once(relay, taken))
    agent._port = relay.port
    agent.join()
    site.publisher.publish(agent.topic, TAP)
    site.broker.wait_said(f"Sending PUBLISH to {agent.client_id} (d1, q1, r0, m1,")
    until(lambda: counted(site.queue) == 2, "the second delivery")
    assert (len(events(site.directory)), len(names.made)) == (1, 1)
    assert site.queue.books.refused == {"duplicate": 1}


def cut_once(relay, taken):
    """The first acknowledgement does not get through."""
    if not taken.is_set():
        taken.set()
        relay.cut()


def counted(queue):
    books = queue.books
    return books.received + sum(books.refused.values())


@pytest.mark.parametrize("cut", [False, True])
def test_while_the_disk_does_not_take_the_name_nothing_is_subscribed(
    named_agent, site, make_relay, cut
):
    """Nor after another connection, at which the broker has the session that it has just made."""
    agent, names = named_agent("5")
    relay = make_relay(site.broker.port)
    agent._port = relay.port
    names.refusals, names.on_refusal = 1, relay.cut if cut else lambda: None
    agent.join()
    assert (names.tried_at, names.made) == ([0, 0], ["session-0"])
    site.publisher.publish(agent.topic, TAP)
    until(lambda: len(events(site.directory)) == 1, "the message")


def test_the_name_of_the_session_is_kept_with_the_queue_and_never_the_same_twice(queue):
    """Beside the topics, which come and go."""
    queue.put_many([], state=[SourceState(wiring.MQTT, "a/topic", "")])
    names = [wiring._name_session(queue) for _ in range(3)]
    assert len(set(names)) == 3
    assert queue.source_state(wiring.MQTT_SESSION) == {"name": names[-1]}
    assert queue.source_state(wiring.MQTT) == {"a/topic": ""}


# -- acknowledgements ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_acknowledged_before_it_is_on_the_disk(make_agent, make_relay, site, protocol):
    seen = []
    relay = make_relay(
        site.broker.port,
        on_puback=lambda: seen.append(read_snapshot(site.directory).books.received),
    )
    agent = make_agent(site.broker, port=relay.port, protocol=protocol)
    agent.join()
    with site.queue.tran_lock:
        site.publisher.publish(agent.topic, numbered(1))
        until(lambda: site.queue.committing_s() > 0.2, "a commit that takes long")
        assert site.broker.said(f"Sending PUBLISH to {agent.client_id}") == 1
        assert site.broker.said(f"Received PUBACK from {agent.client_id}") == 0
        assert seen == []
    site.broker.wait_said(f"Received PUBACK from {agent.client_id}")
    assert seen == [1]


def test_a_connection_that_breaks_before_the_acknowledgement_loses_nothing(
    make_agent, make_relay, site
):
    relay = make_relay(site.broker.port)
    agent = make_agent(site.broker, port=relay.port)
    agent.join()
    with site.queue.tran_lock:
        site.publisher.publish(agent.topic, numbered(1))
        until(site.queue.committing_s, "the commit")
        relay.cut()
    until(lambda: agent.subscribed == 2, "the second connection")
    site.publisher.publish(agent.topic, numbered(2))
    until(lambda: "e2" in found(site.directory), "the next message")
    assert found(site.directory).count("e1") in (1, 2)
    assert found(site.directory).count("e2") == 1
    assert site.queue.books.balanced


def test_a_burst_shares_commits(make_agent, broker, publisher, queue, tmp_path):
    agent = make_agent(broker)
    agent.join()
    agent.stop()
    publisher.publish(agent.topic, *[numbered(i) for i in range(1000)])
    statements = []
    queue._putter.set_trace_callback(statements.append)
    agent.join()
    until(lambda: queue.books.received >= 1000, "1,000 messages")
    queue._putter.set_trace_callback(None)
    assert found(tmp_path) == [f"e{i}" for i in range(1000)]
    # How many depends on how the broker hands out its window; one for each is what must not be.
    assert 1 <= statements.count("COMMIT") <= 250


@pytest.fixture
def full_queue(tmp_path, make_event):
    directory = tmp_path / "full"
    directory.mkdir()
    queue = EventQueue.open(directory, max_bytes=4 * 1024 * 1024)
    fill_up(queue, make_event)
    yield queue
    queue.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_while_the_queue_is_full_no_more_than_a_batch_is_held_in_memory(
    make_agent, make_door, full_queue, site, protocol
):
    """The broker holds the rest: it has a disk and a limit of its own."""
    agent = make_agent(site.broker, door=make_door(queue=full_queue), protocol=protocol)
    agent.join()
    agent.stop()
    size, before = 100_000, full_queue.books
    site.publisher.publish(agent.topic, *[b"x" * size for _ in range(60)])
    with driven(agent.make_source()) as (source, turn):
        until(lambda: turn() or source._arrived, "the first messages")
        for _ in range(100):
            turn()
        held = sum(len(message.payload) for message in source._arrived)
    assert held <= BATCH_BYTES + size
    assert full_queue.books == before


@contextlib.contextmanager
def driven(source):
    """The source and one turn of its loop, as often as a test wants it, without its waits."""
    stop = threading.Event()
    stop.set()  # so that no wait of a turn takes time
    client = source._client()
    try:
        yield source, lambda: source.take_once(client, stop)
    finally:
        client.disconnect()
        client.loop_write()


# -- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00", bytes(range(256)), b'{"name":"\xff"}', b"\xff\xfe{", b'"\\ud800"', b"{" * 5000],
)
def test_a_payload_that_is_no_json_is_a_dead_letter_and_is_acknowledged(
    make_agent, broker, publisher, tmp_path, payload
):
    agent = make_agent(broker)
    agent.join()
    publisher.publish(agent.topic, payload, TAP)
    until(lambda: events(tmp_path), "the good event after it")
    (letter,) = letters(tmp_path)
    assert (letter.source, letter.reason, letter.payload) == ("mqtt", "malformed", payload)
    broker.wait_said(f"Received PUBACK from {agent.client_id}", 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_message_that_is_too_large_is_set_aside_unread_and_is_acknowledged(
    make_agent, site, protocol
):
    """Read, it would take many times its size in memory; unacknowledged, it would come for ever."""
    agent = make_agent(site.broker, protocol=protocol)
    agent.join()
    largest = b'{"name":"largest"}'.ljust(PAYLOAD_MAX)
    site.publisher.publish(agent.topic, b"[" + b"{}," * (PAYLOAD_MAX // 3) + b"{}]", largest)
    until(lambda: events(site.directory), "the good event after it")
    [event], [letter] = events(site.directory), letters(site.directory)
    assert event.name == "largest", "this large it is read"
    assert (letter.source, letter.reason) == ("mqtt", "too_large")
    assert letter.payload == (b"[" + b"{}," * RAW_MAX)[:RAW_MAX]
    assert (
        letter.why == f"found a message of {PAYLOAD_MAX + 3} bytes, expected at most {PAYLOAD_MAX}"
    )
    site.broker.wait_said(f"Received PUBACK from {agent.client_id}", 2)
    assert (site.queue.books.dead, site.queue.books.received) == (1, 2)
    assert site.queue.books.balanced


def test_a_message_that_is_too_large_takes_no_memory_beside_its_own(door, queue, tmp_path):
    """Read, these 20 MB would take 500 MB more."""
    payload = b'{"name":"t","params":{"p":[' + b"{}," * 7_000_000 + b"1]}}"
    message = Subscription(topic="t").message("t", payload)
    tracemalloc.start()
    try:
        door.admit(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert [letter.reason for letter in letters(tmp_path)] == ["too_large"]


def test_of_a_message_that_is_too_large_nothing_is_kept_that_may_be_a_card_s_number(door, tmp_path):
    payload = b'{"name":"t","client_key":"4711"}'.ljust(PAYLOAD_MAX + 1)
    door.admit(Subscription(topic="t").message("t", payload))
    assert [(letter.reason, letter.payload) for letter in letters(tmp_path)] == [("too_large", b"")]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_every_qos_arrive_once_and_in_order(
    make_agent, broker, publisher, tmp_path, qos
):
    agent = make_agent(broker)
    agent.join()
    publisher.publish(agent.topic, *[numbered(i) for i in range(30)], qos=qos)
    publisher.publish(agent.topic, numbered("last"))
    until(lambda: "elast" in found(tmp_path), "the last message")
    assert found(tmp_path) == [*[f"e{i}" for i in range(30)], "elast"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_retained_messages_are_counted_and_let_go(make_agent, site, protocol):
    agent = make_agent(site.broker, protocol=protocol)
    site.publisher.publish(agent.topic, numbered("old"), retain=True)
    agent.join()
    until(lambda: site.queue.books.refused == {"retained": 1}, "the count")
    site.broker.wait_said(f"Received PUBACK from {agent.client_id}")
    site.publisher.publish(agent.topic, numbered("new"), retain=True)
    until(lambda: found(site.directory), "the message that came while it was there")
    assert found(site.directory) == ["enew"]
    assert site.queue.books.refused == {"retained": 1}


def test_retained_messages_are_taken_where_that_is_configured(
    make_agent, broker, publisher, queue, tmp_path
):
    agent = make_agent(broker)
    agent.subscriptions = [Subscription(topic=agent.topic, retained=True)]
    publisher.publish(agent.topic, numbered("old"), retain=True)
    agent.join()
    until(lambda: found(tmp_path) == ["eold"], "the retained message")
    assert queue.books.refused == {}


def test_the_options_of_a_subscription_travel(make_agent, broker, publisher, tmp_path):
    agent = make_agent(broker)
    root = agent.client_id
    agent.subscriptions = [
        Subscription(topic=f"{root}/+/alarm", priority=Priority.HIGH),
        Subscription(topic=f"{root}/deep/#", stream="second", priority=Priority.LOW),
        Subscription(topic=f"$share/group/{root}/shared/+", stream="second"),
        Subscription(topic=f"{root}/app", stream="app"),
    ]
    agent.join()
    topics = ["door/alarm", "deep", "deep/a/b/c", "shared/x", "app"]
    for topic in topics:
        publisher.publish(f"{root}/{topic}", numbered(topic))
    until(lambda: len(found(tmp_path)) == len(topics), "all messages")
    taken = {e.event_id: (e.stream, e.priority) for e in events(tmp_path)}
    assert taken == {
        "edoor/alarm": ("main", Priority.HIGH),
        "edeep": ("second", Priority.LOW),
        "edeep/a/b/c": ("second", Priority.LOW),
        "eshared/x": ("second", Priority.NORMAL),
        "eapp": ("app", Priority.NORMAL),
    }


def test_of_two_filters_that_fit_the_first_one_counts(make_agent, broker, publisher, tmp_path):
    agent = make_agent(broker)
    agent.subscriptions = [
        Subscription(topic=f"{agent.client_id}/a", stream="second"),
        Subscription(topic=f"{agent.client_id}/#", stream="main"),
    ]
    agent.join()
    publisher.publish(f"{agent.client_id}/a", numbered(1))
    publisher.publish(f"{agent.client_id}/b", numbered(2))
    until(lambda: "e2" in found(tmp_path), "the second message")
    assert {(e.event_id, e.stream) for e in events(tmp_path)} == {("e1", "second"), ("e2", "main")}


levels = st.sampled_from(["a", "b", "ab", "", " ", "ü", "$SYS", "a+", "$"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join)
filters = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(levels | st.just("+"), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
) | st.just("#")


@given(filters, topics)
@example("#", "$SYS/broker/uptime")
@example("+/broker", "$SYS/broker")
@example("a/#", "a")
@example("+/+", "/a")
@example("+", "/a")
def test_filters_fit_topics_as_paho_says(filter_, topic):
    assert _matches(filter_, topic) == topic_matches_sub(filter_, topic)


@given(filters, topics)
def test_a_shared_filter_fits_what_it_fits_without_its_prefix(filter_, topic):
    assert _matches(f"$share/group/{filter_}", topic) == topic_matches_sub(filter_, topic)


# -- attempts, logs, bugs -----------------------------------------------------------------------


class Nobody:
    """A client whose broker is never there; it notes when it was tried."""

    def __init__(self, clock):
        self._clock = clock
        self.tried = []

    def socket(self):
        return None

    def connect(self, *_where, **_options):
        self.tried.append(self._clock())
        raise ConnectionRefusedError(111, "Connection refused")


def attempts(agent, *, random, reconnect_max, seconds=600, step=0.125):
    """When a source tries to connect in vain, in seconds of its clock."""
    now = itertools.count(0, step)
    time = [0.0]
    source = agent.make_source(
        random=random, monotonic=lambda: time[0], reconnect_max=reconnect_max
    )
    nobody = Nobody(lambda: time[0])
    stop = threading.Event()
    stop.set()  # so that no wait of a turn takes time
    while time[0] < seconds:
        source.take_once(nobody, stop)
        time[0] = next(now)
    return nobody.tried


def gaps(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.fixture(scope="module")
def lonely():
    return Agent(None, free_port())


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5))
def test_the_wait_between_attempts_is_bounded_both_ways(lonely, numbers):
    random = itertools.cycle(numbers).__next__
    times = attempts(lonely, random=random, reconnect_max=30.0, seconds=200)
    assert times[0] == 0
    assert all(FIRST_WAIT <= gap <= 30.0 + 0.125 for gap in gaps(times))


def test_the_wait_grows_to_its_longest_and_stays_there(lonely):
    found_gaps = gaps(attempts(lonely, random=lambda: 0.999, reconnect_max=30.0))
    assert found_gaps[:4] == sorted(found_gaps[:4])
    assert found_gaps[0] < 3
    assert all(29 < gap <= 30.125 for gap in found_gaps[5:])


def test_the_wait_is_drawn_by_lot_so_that_devices_do_not_come_all_at_once(lonely):
    one = attempts(lonely, random=itertools.cycle([0.1, 0.9, 0.4]).__next__, reconnect_max=30.0)
    other = attempts(lonely, random=itertools.cycle([0.7, 0.2, 0.5]).__next__, reconnect_max=30.0)
    assert one[1:10] != other[1:10]
    assert len(set(gaps(one)[5:])) > 1


def test_a_broker_that_is_away_for_a_week_is_one_line_in_the_log(lonely, caplog):
    caplog.set_level(logging.INFO)
    tried = attempts(lonely, random=lambda: 0.5, reconnect_max=30.0, seconds=6000)
    assert len(tried) > 200
    assert len(caplog.records) == 1


def test_each_change_of_the_connection_is_one_line_in_the_log(make_agent, tmp_path, caplog):
    caplog.set_level(logging.INFO, "agent.intake.mqtt")
    broker = Mosquitto(tmp_path / "broker")
    agent = make_agent(broker)
    agent.start()
    until(lambda: "cannot reach" in agent.source.problem, "the problem to be told")
    with broker:
        until(lambda: agent.subscribed == 1, "the subscription")
        broker.stop()
        until(lambda: "cannot reach" in (agent.source.problem or ""), "the loss to be told")
        broker.start()
        until(lambda: agent.subscribed == 2, "the second subscription")
        agent.stop()
    where = f"the broker 127.0.0.1:{broker.port}"
    lines = [r.getMessage() for r in caplog.records if r.name == "agent.intake.mqtt"]
    beginnings = [
        f"cannot reach {where}: ",
        f"connected to {where}",
        f"lost {where}: ",
        f"cannot reach {where}: ",
        f"connected to {where}",
    ]
    assert len(lines) == len(beginnings)
    assert all(line.startswith(begin) for line, begin in zip(lines, beginnings, strict=True))


def test_a_bug_in_the_door_ends_the_source_loudly(make_agent, broker, publisher):
    class BrokenDoor:
        def admit_many(self, messages):
            raise LookupError("a bug")

    agent = make_agent(broker, door=BrokenDoor())
    agent.join()
    publisher.publish(agent.topic, TAP)
    until(lambda: agent._runner._bugs, "the bug to be heard of")
    assert [str(bug) for bug in agent._runner._bugs] == ["a bug"]
    assert agent.source.problem is not None
    assert broker.said(f"Received PUBACK from {agent.client_id}") == 0
    agent._runner._bugs.clear()


def test_a_password_is_not_shown():
    broker = Broker(host="h", port=1, client_id="c", username="u", password=Secret("t0p-7731"))
    assert "7731" not in repr(broker)
