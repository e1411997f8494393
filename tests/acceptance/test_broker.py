"""A broker that dies, lies, floods and forgets: nothing that it had kept is lost on the way."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.intake.mqtt import BATCH_MESSAGES
from tests.acceptance.daemon import SECRET
from tests.acceptance.publishers import event, ids_of
from tests.acceptance.test_kill import slow_disk
from tests.intake.publisher import Publisher
from tests.intake.stored import letters
from tests.mosquitto import Mosquitto
from tests.waiting import PATIENCE, until

TOPIC = "kiosk/events"
ELSEWHERE = "nobody/listens"
SAVING = "Saving in-memory database"  # how mosquitto says that it writes its store
IN_FLIGHT = 20  # messages that a publisher has sent, and whose PUBACK it has not heard
LETTER_MAX = 8 * 1024  # bytes of a message that a dead letter keeps: design, "Failure"
MEMORY_MAX = 96 * 1024  # kB: without bounds it was 138 MB (the broker), or what was sent (HTTP)
QUEUED = 100_000


class Program:
    """Publishes numbered events with QoS 1, through broken connections too.

    It knows which of them the broker acknowledged, and so which of them nobody may lose.
    """

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._numbers: dict[int, int] = {}  # by message id; a marker has none
        self._acknowledged: set[int] = set()
        self._early: set[int] = set()  # acknowledged before publish() told us the id
        self.published: set[int] = set()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(IN_FLIGHT)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, numbers: Iterable[int], *, topic: str = TOPIC) -> None:
        for number in numbers:
            info = self._client.publish(topic, json.dumps(event(number)), qos=1)
            self.published.add(number)
            with self._changed:
                self._numbers[info.mid] = number
                if info.mid in self._early:
                    self._early.remove(info.mid)
                    self._acknowledged.add(number)

    @property
    def acknowledged(self) -> set[int]:
        """What the broker has said that it has."""
        with self._changed:
            return set(self._acknowledged)

    def wait_acknowledged(self, total: int, *, timeout: float = 3 * PATIENCE) -> None:
        until(
            lambda: len(self.acknowledged) >= total,
            lambda: f"{total} PUBACKs, there are {len(self.acknowledged)}",
            timeout=timeout,
        )

    def kept_by(self, broker: Mosquitto) -> set[int]:
        """Have the broker write its store; what survives its kill from now on.

        By itself it does so only for messages that it has to queue: what it has sent on, and has
        heard no PUBACK for, it keeps in memory.
        """
        before = self.acknowledged
        saved = broker.said(SAVING)
        os.kill(process_of(broker), signal.SIGUSR1)
        broker.wait_said(SAVING, saved + 1)
        # It does one thing after the other: with this answer the store is written.
        self._client.publish(ELSEWHERE, b"", qos=1).wait_for_publish(PATIENCE)
        return before

    def heard_last_of(self) -> set[int]:
        """What a broker that is dead now acknowledged: to the end, PUBACKs on the way included."""
        until(lambda: not self._client.is_connected(), "the publisher to notice")
        return self.acknowledged

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_publish(self, _client, _data, mid, *_) -> None:
        with self._changed:
            number = self._numbers.pop(mid, None)
            if number is None:
                self._early.add(mid)
            else:
                self._acknowledged.add(number)


@pytest.fixture
def make_program(broker):
    with contextlib.ExitStack() as stack:

        def make() -> Program:
            program = Program(broker.port)
            stack.callback(program.close)
            return program

        yield make


@pytest.fixture
def offline(make_daemon, mqtt_setup, broker, emulator):
    """A daemon that takes messages and can deliver nothing: no repeat is the delivery's."""
    emulator.stop()
    daemon = make_daemon(mqtt_setup)
    daemon.start()
    broker.wait_subscribed(TOPIC)
    return daemon


def kill(*victims) -> None:
    """SIGKILL to all of them before anybody looks whether one is dead."""
    for victim in victims:
        os.kill(process_of(victim), signal.SIGKILL)
    for victim in victims:
        victim.kill()


def process_of(victim) -> int:
    return victim._process.pid


def stored_by(broker: Mosquitto) -> set[int]:
    """The numbers of the messages in the store of a broker that is dead."""
    store = (broker._log.parent / "mosquitto.db").read_bytes()
    return {int(number) for number in re.findall(rb'"params": \{"id": (\d+)\}', store)}


def everything_arrives(daemon, broker, emulator, program, *, timeout: float = 60) -> Counter:
    """Deliver to the end; how often each event arrived. The books agree with that."""
    last = max(program.published) + 1
    with Publisher(broker.port) as publisher:  # comes behind all that the session holds
        publisher.publish(TOPIC, json.dumps(event(last)).encode())
    emulator.start()
    daemon.wait(lambda _: last in ids_of(emulator.events()), flush=True, timeout=timeout)
    books = daemon.drained()
    arrived = Counter(ids_of(emulator.events()))
    assert books.received == books.sent == arrived.total()
    assert books.dropped == {}
    assert books.refused.keys() <= {"duplicate"}
    del arrived[last]
    return arrived


# -- kill -9 ------------------------------------------------------------------------------------

ORDERS = [("agent", "broker"), ("broker", "agent"), ("both",)]


@pytest.mark.slow
@pytest.mark.parametrize("back", [("agent", "broker"), ("broker", "agent")], ids="-".join)
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_whoever_is_killed_first_nothing_that_the_broker_had_kept_is_lost(  # noqa: PLR0917 - pytest's
    offline, broker, emulator, make_program, order, back
):
    """With messages in flight on both sides of the broker."""
    daemon, program = offline, make_program()
    program.publish(range(300))
    kept = program.kept_by(broker)
    program.publish(range(300, 800))
    program.wait_acknowledged(400)
    parts = {"agent": [daemon], "broker": [broker], "both": [daemon, broker]}
    for name in order:
        kill(*parts[name])
    stored = stored_by(broker)
    acknowledged = program.heard_last_of()
    for name in back:
        parts[name][0].start() if name == "broker" else daemon.spawn()
    program.publish(range(800, 1000))
    program.wait_acknowledged(1000)
    arrived = everything_arrives(daemon, broker, emulator, program)
    nothing_is_lost(arrived, program, kept | stored, acknowledged - kept)
    # The publisher says again what it heard no PUBACK for: to the broker these are new messages.
    repeats = arrived.total() - len(arrived)
    assert repeats <= IN_FLIGHT + BATCH_MESSAGES


def nothing_is_lost(arrived, program, kept, doubtful) -> None:
    """``doubtful``: what a broker acknowledged, and may have forgotten when it was killed."""
    assert kept - arrived.keys() == set()
    assert arrived.keys() <= program.published
    assert program.published - arrived.keys() <= doubtful


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["broker", "broker, then agent"])
def test_a_broker_that_is_killed_while_the_agents_disk_is_slow_costs_nothing(
    offline, broker, emulator, make_program, victims
):
    """The agent holds a batch that it cannot commit, for a connection that is gone."""
    daemon, program = offline, make_program()
    program.publish(range(100))
    daemon.wait_received(100)
    with slow_disk(daemon.setup.state):
        program.publish(range(100, 700))
        program.wait_acknowledged(700)
        kept = program.kept_by(broker)
        kill(broker)
        stored = stored_by(broker)
        assert set(range(100, 700)) <= stored, "the agent acknowledged what it could not commit"
        broker.start()
        if "agent" in victims:
            kill(daemon)
            daemon.spawn()
        program.publish(range(700, 800))
        program.wait_acknowledged(800)
    arrived = everything_arrives(daemon, broker, emulator, program)
    nothing_is_lost(arrived, program, kept | stored, set())
    # Its batch was committed for a connection that was gone, and is known when it comes again.
    assert arrived.total() - len(arrived) <= IN_FLIGHT


@pytest.mark.slow
def test_three_kills_in_turn_repeat_no_more_than_a_few(offline, broker, emulator, make_program):
    daemon, program = offline, make_program()
    kept, doubtful, number = set(), set(), 0
    for victim in (broker, daemon, broker):
        program.publish(range(number, number + 200))
        number += 200
        program.wait_acknowledged(number - 100)
        kept |= program.kept_by(broker) - doubtful
        program.publish(range(number, number + 100))
        number += 100
        kill(victim)
        if victim is broker:
            doubtful |= program.heard_last_of() - kept
        victim.start()
    program.wait_acknowledged(number)
    arrived = everything_arrives(daemon, broker, emulator, program)
    nothing_is_lost(arrived, program, kept, doubtful)
    assert arrived.total() - len(arrived) <= 2 * (IN_FLIGHT + BATCH_MESSAGES)


# -- the session --------------------------------------------------------------------------------

CLIENT_ID = "ga4-agent-kiosk-7"
KEEPALIVE = 77  # seconds; by it the broker's log tells the agent from the others


class Thief:
    """Another client with the agent's client id. It takes messages and acknowledges none.

    ``again``: as long as it lives it comes back, as a cloned image does.
    """

    def __init__(self, port: int, *, again: bool) -> None:
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=CLIENT_ID,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=again,
        )
        self._client.reconnect_delay_set(1, 1)
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600  # else the session ends with the thief's connection
        self._client.connect("127.0.0.1", port, 60, clean_start=False, properties=kept)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def named(make_daemon, mqtt_setup, broker):
    """A daemon whose client id somebody else can have too."""
    mqtt = f'client_id = "{CLIENT_ID}"\nkeepalive = "{KEEPALIVE} s"'
    daemon = make_daemon(replace(mqtt_setup, mqtt=mqtt))
    daemon.start()
    broker.wait_subscribed(TOPIC)
    return daemon


def connections(broker: Mosquitto) -> int:
    """How often the agent came in."""
    text = broker._log.read_text()
    return len(re.findall(rf"New client connected from \S+ as {CLIENT_ID} \(.*k{KEEPALIVE}", text))


def cpu_s(daemon) -> float:
    """Processor time that it has used, in seconds."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_session_that_another_client_took_over_is_taken_back(
    named, broker, emulator, make_program
):
    program = make_program()
    thief = Thief(broker.port, again=False)
    try:
        until(lambda: connections(broker) >= 2, "the agent to come back")
        program.publish(range(50))
        named.wait(lambda _: len(set(ids_of(emulator.events()))) == 50, flush=True)
        assert connections(broker) == 2
    finally:
        thief.close()


@pytest.mark.slow
def test_two_agents_with_one_client_id_do_not_chase_each_other_without_a_pause(
    named, broker, emulator, make_program
):
    """Nothing is lost, and who looks into the log finds out."""
    program, begin, used = make_program(), time.monotonic(), cpu_s(named)
    thief = Thief(broker.port, again=True)
    try:
        for number in range(50):
            program.publish([number])
            time.sleep(0.1)
        took = time.monotonic() - begin
        assert 2 <= connections(broker) <= took + 2, "at most once a second"
        assert cpu_s(named) - used < took / 2
    finally:
        thief.close()
    program.wait_acknowledged(50)
    named.wait(lambda _: set(ids_of(emulator.events())) == set(range(50)), flush=True)
    books = named.drained()
    assert books.received == books.sent == 50
    assert "lost the broker" in named.log


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_topic_that_left_the_configuration_comes_no_more_until_it_is_back(
    make_daemon, mqtt_setup, broker, emulator, killed
):
    """The subscription lives in the broker's session, not in the configuration."""
    both = replace(mqtt_setup, topics=(TOPIC, "kiosk/old"))
    daemon = make_daemon(both)
    daemon.start()
    broker.wait_subscribed("kiosk/old")
    daemon.kill() if killed else daemon.end()
    daemon.write(mqtt_setup.toml())
    daemon.start()
    broker.wait_said("Received UNSUBSCRIBE from ga4-agent-")
    with Publisher(broker.port) as publisher:
        publisher.publish("kiosk/old", json.dumps(event(1)).encode())
        publisher.publish(TOPIC, json.dumps(event(2)).encode())
        assert emulator.wait_for(lambda: ids_of(emulator.events()), PATIENCE)
        daemon.end()
        publisher.publish("kiosk/old", json.dumps(event(3)).encode())
        daemon.write(both.toml())
        daemon.start()
        daemon.wait(lambda status: not status["sources"]["mqtt"]["problem"])
        until(lambda: broker.said("Received SUBSCRIBE from ga4-agent-") >= 3, "the third one")
        publisher.publish("kiosk/old", json.dumps(event(4)).encode())
        assert emulator.wait_for(lambda: len(emulator.events()) >= 2, PATIENCE)
    assert daemon.drained().received == 2
    assert ids_of(emulator.events()) == [2, 4]


# -- messages that are no events ----------------------------------------------------------------

BINARY = bytes(range(256)) * 40


def test_what_is_too_large_or_binary_is_a_dead_letter_and_holds_up_nothing(
    make_daemon, mqtt_setup, broker, emulator
):
    """2 MB of one event, of an array, of nothing; and what no JSON is."""
    daemon = make_daemon(mqtt_setup)
    daemon.start()
    broker.wait_subscribed(TOPIC)
    filling = "x" * 2_000_000
    large = [
        json.dumps({"name": "tap", "params": {"id": 1, "text": filling}}).encode(),
        json.dumps([event(number) for number in range(60_000)]).encode(),
        bytes(2_000_000),
    ]
    binary = [BINARY, b"\xff\xfe", b""]
    with Publisher(broker.port) as publisher:
        for number, payload in enumerate((*large, *binary)):
            publisher.publish(TOPIC, payload, json.dumps(event(number)).encode())
        assert emulator.wait_for(lambda: len(emulator.events()) == 6, 3 * PATIENCE)
    assert sorted(ids_of(emulator.events())) == list(range(6))
    books = daemon.drained()
    assert (books.received, books.sent, books.dead) == (12, 6, 6)
    assert daemon.end() == 0
    found = letters(daemon.setup.state)
    assert [letter.reason for letter in found] == ["too_large"] * 3 + ["malformed"] * 3
    assert all(len(letter.payload) <= LETTER_MAX for letter in found)
    kept = [payload[:LETTER_MAX] for payload in binary]
    assert [letter.payload for letter in found[3:]] == kept
    # All were acknowledged: the session holds nothing that would come again.
    daemon.start()
    daemon.wait(lambda status: not status["sources"]["mqtt"]["problem"])
    with Publisher(broker.port) as publisher:
        publisher.publish(TOPIC, json.dumps(event(9)).encode())
    assert emulator.wait_for(lambda: 9 in ids_of(emulator.events()), PATIENCE)
    assert daemon.drained().received == 13


def publish_retained(broker, *numbers) -> None:
    with Publisher(broker.port) as publisher:
        for number in numbers:
            publisher.publish(f"kiosk/{number}", json.dumps(event(number)).encode(), retain=True)


def test_retained_messages_are_counted_and_no_events(make_daemon, mqtt_setup, broker, emulator):
    publish_retained(broker, 1, 2)
    daemon = make_daemon(replace(mqtt_setup, topics=("kiosk/+",)))
    daemon.start()
    seen = daemon.wait(lambda status: status["ledger"]["refused"].get("retained") == 2)
    assert seen["ledger"]["received"] == 0
    publish_retained(broker, 3)  # to who is there it is a message like any other
    assert emulator.wait_for(lambda: ids_of(emulator.events()) == [3], PATIENCE)
    assert daemon.end() == 0
    assert daemon.books().refused["retained"] == 2, "counted on the disk, too"


def test_retained_messages_are_taken_where_that_is_configured(
    make_daemon, mqtt_setup, broker, emulator
):
    """Once for each session of the broker's, as it is documented: not at each new connection."""
    publish_retained(broker, 1)
    more = '\nretained = true\n[[mqtt.subscriptions]]\ntopic = "other/+"'
    daemon = make_daemon(replace(mqtt_setup, topics=("kiosk/+",)))
    daemon.write(mqtt_setup.toml().replace(f'topic = "{TOPIC}"', f'topic = "kiosk/+"{more}'))
    daemon.start()
    assert emulator.wait_for(lambda: ids_of(emulator.events()) == [1], PATIENCE)
    daemon.end()
    daemon.start()
    until(lambda: broker.said("Received SUBSCRIBE from ga4-agent-") >= 2, "the second one")
    publish_retained(broker, 2)
    assert emulator.wait_for(lambda: 2 in ids_of(emulator.events()), PATIENCE)
    books = daemon.drained()
    assert ids_of(emulator.events()) == [1, 2]
    assert (books.received, dict(books.refused)) == (2, {})


# -- a bug in a callback ------------------------------------------------------------------------

SICK = """
import os, sys
from pathlib import Path
from agent import daemon
from agent.cli.run import log_to_stderr
from agent.intake.mqtt import MqttSource

healthy, left = MqttSource.{name}, [{after}]

def raising(*arguments):
    if left[0] == 0:
        raise KeyError(os.environ["GA4_API_SECRET"])
    left[0] -= 1
    healthy(*arguments)

MqttSource.{name} = raising
log_to_stderr(20)
sys.exit(daemon.run(Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("name", "after"),
    [("_on_message", 0), ("_on_message", 30), ("_on_connect", 0), ("_on_subscribe", 0)],
)
def test_a_callback_that_raises_ends_the_process_loudly_and_loses_nothing(  # noqa: PLR0917 - pytest's
    offline, broker, emulator, make_program, name, after
):
    """paho by itself would log it, and go on without a loop."""
    daemon, program = offline, make_program()
    assert daemon.end() == 0
    program.publish(range(100))
    program.wait_acknowledged(100)
    healthy = daemon.program
    daemon.program = (sys.executable, "-c", SICK.format(name=name, after=after))
    daemon.bugs_expected = True
    daemon.spawn()
    assert daemon.exit_status() == 1, daemon.tail()
    (line,) = [line for line in daemon.log.splitlines() if "a bug ends the agent" in line]
    assert "KeyError at <string>:" in line
    assert SECRET not in daemon.log
    daemon.program = healthy
    daemon.start()
    arrived = everything_arrives(daemon, broker, emulator, program)
    assert arrived == Counter(range(100))


# -- storms -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_broker_that_is_restarted_ten_times_gets_few_attempts_and_loses_nothing(
    offline, broker, emulator, make_program
):
    daemon, program = offline, make_program()
    begin, used = time.monotonic(), cpu_s(daemon)
    for round_ in range(10):
        program.publish(range(round_ * 20, round_ * 20 + 20))
        broker.stop()
        broker.start()
    program.wait_acknowledged(200)
    took = time.monotonic() - begin
    assert connects(broker) <= took + 2, "at most once a second"
    assert cpu_s(daemon) - used < took / 2 + 1
    arrived = everything_arrives(daemon, broker, emulator, program)
    assert arrived.keys() == program.published
    assert arrived.total() - len(arrived) <= 10 * IN_FLIGHT


def connects(broker: Mosquitto) -> int:
    text = broker._log.read_text()
    return len(re.findall(r"New client connected from \S+ as ga4-agent-", text))


class Slammer:
    """Accepts connections on the broker's port and closes them at once. Counts them."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run)
        self.slammed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.slammed += 1
            connection.close()


@pytest.mark.slow
def test_a_port_that_takes_connections_and_hangs_up_gets_few_attempts(
    offline, broker, emulator, make_program
):
    daemon = offline
    broker.stop()
    begin, used = time.monotonic(), cpu_s(daemon)
    with Slammer(broker.port) as slammer:
        until(lambda: slammer.slammed >= 4, "the agent to try again and again")
        took = time.monotonic() - begin
        assert slammer.slammed <= took + 2
        assert cpu_s(daemon) - used < took / 2
        problem = daemon.wait(lambda s: s["sources"]["mqtt"]["problem"])["sources"]["mqtt"]
        assert f"127.0.0.1:{broker.port}" in problem["problem"]
    broker.start()
    program = make_program()
    program.publish(range(50))
    arrived = everything_arrives(daemon, broker, emulator, program)
    assert arrived == Counter(range(50))
    said = [line for line in daemon.log.splitlines() if "broker" in line]
    assert len(said) <= 8, "one line for each change, not for each attempt"


# -- a flood ------------------------------------------------------------------------------------


@pytest.fixture
def tank(tmp_path):
    """A broker that keeps any number of messages, and writes none of them down meanwhile."""
    options = "allow_anonymous true\nautosave_on_changes false\nlog_type none"
    broker = Mosquitto(tmp_path / "tank", options)
    broker.start()
    yield broker
    broker.kill()


def publish_fast(port: int, payloads: Iterable[bytes]) -> None:
    """Publish with QoS 1 as fast as the broker takes it, and hear every PUBACK.

    In MQTT 3.1.1 without paho, which takes longer for these than the agent.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as wire:
        wire.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04fast")
        assert wire.recv(4, socket.MSG_WAITALL) == b"\x20\x02\x00\x00"
        topic = len(TOPIC).to_bytes(2, "big") + TOPIC.encode()
        packets = []
        for number, payload in enumerate(payloads):
            body = topic + (number % 65_535 + 1).to_bytes(2, "big") + payload
            assert len(body) < 128  # its length in one byte
            packets.append(b"\x32" + bytes([len(body)]) + body)
        sending = threading.Thread(target=wire.sendall, args=(b"".join(packets),))
        sending.start()
        left = 4 * len(packets)  # bytes
        while left and (data := wire.recv(min(left, 65_536))):
            left -= len(data)
        sending.join()
        assert left == 0


def peak_kb(daemon) -> int:
    """The most memory that it ever held, in kB."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_100000_messages_that_wait_in_the_broker_are_taken_with_little_memory(
    make_daemon, setup, tank, emulator
):
    room = '[queue]\nmax_bytes = "256 MiB"'
    daemon = make_daemon(replace(setup, mqtt_port=tank.port, stream=room))
    daemon.start()
    daemon.wait(lambda status: not status["sources"]["mqtt"]["problem"])
    time.sleep(1)
    assert daemon.end() == 0
    publish_fast(tank.port, (json.dumps(event(n)).encode() for n in range(QUEUED)))
    begin = time.monotonic()
    daemon.start()
    daemon.wait(lambda status: status["ledger"]["received"] >= QUEUED, timeout=300)
    taken_s = time.monotonic() - begin
    daemon.wait(lambda status: status["queue"]["events"] == 0, timeout=300)
    drained_s = time.monotonic() - begin
    print(f"taken in {taken_s:.1f} s, drained in {drained_s:.1f} s, {peak_kb(daemon)} kB")
    assert peak_kb(daemon) < MEMORY_MAX
    books = daemon.books()
    assert books.received == books.sent == QUEUED
    assert Counter(ids_of(emulator.events())) == Counter(range(QUEUED))
