"""MQTT in: take what has arrived, commit it together, then acknowledge.

One thread turns paho's sockets itself: it reads at most a batch, and while the batch is being
committed nothing more is read, so that the broker's flow control is the bound on memory. The
messages of a burst share one fsync. QoS 1 only: for QoS 2 paho keeps messages in memory that
the broker already believes delivered. A message that is too large is not read, but set aside.
"""

import logging
import select
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.event import Priority
from agent.intake.door import Door, Full
from agent.intake.duplicates import delivery
from agent.intake.mapping import Rule
from agent.intake.message import Message
from agent.intake.source import SourceUnavailable
from agent.progress import Progress
from agent.queue.entries import Seen
from agent.queue.failures import StorageError
from agent.secret import Secret

log = logging.getLogger(__name__)

Phase = Literal["away", "dialling", "up", "closing"]

QOS = 1
BATCH_MESSAGES = 500
BATCH_BYTES = 1024 * 1024
PAYLOAD_MAX = 1024 * 1024  # bytes of a message that is read: with its events it takes 30 times that
TICK = 1.0  # seconds: how late a stop is noticed, and how often paho looks after its pings
GATHER = 0.002  # seconds without a message that end a batch: brokers send a window bit by bit
CONNECT_TIMEOUT = 10.0
FIRST_WAIT = 1.0  # seconds before the first reconnect
ASK_AGAIN = 30.0  # seconds between attempts to subscribe to what the broker denies
FULL_WAIT = 2.0  # seconds between attempts while the queue is full


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a message came: by what it is known again, and whether it may have come before."""

    known_by: Seen | None = None
    again: bool = False


ONCE = Arrival()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A topic filter as the broker takes it, and what its messages become.

    ``local``: their publisher reads this device's clock.
    """

    topic: str
    stream: str | None = None
    priority: Priority = Priority.NORMAL
    retained: bool = False
    rule: Rule | None = None
    local: bool = False

    def message(self, topic: str, payload: bytes, arrival: Arrival = ONCE) -> Message:
        """What is handed to the door."""
        return Message(
            source="mqtt",
            payload=payload,
            stream=self.stream,
            priority=self.priority,
            answerable=False,
            topic=topic,
            rule=self.rule,
            local=self.local,
            delivery=arrival.known_by,
            again=arrival.again,
            most=PAYLOAD_MAX,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files for TLS; without ``ca_file`` the system's authorities are trusted."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the broker is and how to log in."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: Secret | None = field(default=None, repr=False)
    protocol: str = "5"
    keepalive: float = 60.0
    session_expiry: float = 7 * 86_400.0
    tls: Tls | None = None


class MqttSource:
    """Keeps a persistent session and hands its messages to the door."""

    def __init__(
        self,
        *,
        door: Door,
        broker: Broker,
        subscriptions: Sequence[Subscription],
        reconnect_max: float,
        random: Callable[[], float],
        known_topics: Collection[str] = (),
        remember: Callable[[Sequence[str]], None] = lambda _topics: None,
        session: str = "",
        begin_session: Callable[[], str] = lambda: "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the parts.

        ``reconnect_max``: the longest wait between attempts, in seconds. ``known_topics``: what
        the broker's persistent session may still hold; ``remember`` keeps that for the next run.
        ``session``: the name that the present session got; ``begin_session`` makes another one and
        keeps it for the next run, or raises StorageError.
        """
        self._door = door
        self._broker = broker
        self._subscriptions = {s.topic: s for s in subscriptions}
        self._reconnect_max = reconnect_max
        self._random = random
        self._monotonic = monotonic
        self._arrived: list[MQTTMessage] = []
        self._refused: str | None = None
        self._stale = [topic for topic in known_topics if topic not in self._subscriptions]
        self._remember = remember
        self._told = False  # whether the broker holds exactly our subscriptions
        self._session = session
        self._begin_session = begin_session
        self._unbegun = False  # whether the broker's session is a new one that has no name yet
        self._phase: Phase = "away"
        self._denied: str | None = None
        self._ask_again_at = 0.0
        self._attempts = 0
        self._retry_at = 0.0
        self.connected = threading.Event()

    @property
    def problem(self) -> str | None:
        """Why no messages come; None when they do."""
        if self.connected.is_set():
            return self._denied
        return self._refused or f"not yet connected to the broker {self._where()}"

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Take messages until ``stop``. Raises SourceUnavailable for bad certificate files."""
        client = self._client()
        # Before the first subscription: what the session may come to hold must not be forgotten.
        self._remember([*self._subscriptions, *self._stale])
        try:
            while not stop.is_set():
                progress.beat()
                self.take_once(client, stop)
        finally:
            self._phase = "closing"
            self.connected.clear()
            client.disconnect()
            client.loop_write()

    def take_once(self, client: Client, stop: threading.Event) -> None:
        """Take what has arrived, commit it, acknowledge it; connect first if need be."""
        if client.socket() is None:
            self._connect(client, stop)
            return
        if self._unbegun and self._phase == "up" and not self._begin(client, stop):
            return
        if not self._arrived:
            self._read(client)
        if self._arrived:
            self._commit(client, stop)
        self._look_after_topics(client)
        client.loop_misc()

    # -- the connection ---------------------------------------------------------------------

    def _client(self) -> Client:
        mqtt5 = self._broker.protocol == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._broker.client_id,
            clean_session=None if mqtt5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT
        if self._broker.username is not None:
            password = self._broker.password.reveal() if self._broker.password else None
            client.username_pw_set(self._broker.username, password)
        if self._broker.tls is not None:
            client.tls_set_context(_context(self._broker.tls))
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_disconnect = self._on_disconnect
        return client

    def _connect(self, client: Client, stop: threading.Event) -> None:
        self._arrived.clear()  # never acknowledged, so the broker sends them again
        wait = self._retry_at - self._monotonic()
        if wait > 0:
            stop.wait(min(wait, TICK))
            return
        self._attempts += 1
        self._retry_at = self._monotonic() + self._backoff()
        try:
            self._open(client)
        except (OSError, ssl.SSLError, ValueError) as error:
            self._down(f"cannot reach the broker {self._where()}: {_reason(error)}")

    def _open(self, client: Client) -> None:
        options: dict[str, Any] = {}
        if self._broker.protocol == "5":
            options = {"clean_start": False, "properties": self._wishes()}
        keepalive = int(self._broker.keepalive)
        self._phase = "dialling"
        client.connect(self._broker.host, self._broker.port, keepalive, **options)

    def _wishes(self) -> Properties:
        """What the session is to be like."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        properties.SessionExpiryInterval = int(self._broker.session_expiry)
        properties.ReceiveMaximum = BATCH_MESSAGES
        # Not MaximumPacketSize: what is larger the broker would drop without a word to anybody.
        # So paho holds it, as large as the broker lets it be, until it is set aside.
        return properties

    def _backoff(self) -> float:
        window = min(self._reconnect_max, FIRST_WAIT * 2.0 ** min(self._attempts, 16))
        return FIRST_WAIT + self._random() * max(0.0, window - FIRST_WAIT)

    def _where(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    def _down(self, reason: str) -> None:
        """Say it once per reason: a broker that is away for a week is one line."""
        if self._refused != reason:
            log.warning("%s; trying again", reason)
        self._refused = reason
        self.connected.clear()

    # -- paho's callbacks: they only note, so that none can fail in paho's hands --------------

    def _on_connect(
        self, client: Client, _data: Any, flags: ConnectFlags, code: ReasonCode, _properties: Any
    ) -> None:
        if code.is_failure:
            self._phase = "away"
            self._down(f"cannot log in to the broker {self._where()}: it said {code}")
            return
        self._phase = "up"
        if flags.session_present and not self._unbegun:
            self._subscribe(client)
        else:
            self._unbegun = True
        if self._stale:
            client.unsubscribe(self._stale)
        log.info("connected to the broker %s", self._where())
        self._refused = None
        self._attempts = 0
        self.connected.set()

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        answers = zip(self._subscriptions, codes, strict=False)
        denied = [f"{topic} ({code})" for topic, code in answers if code.is_failure]
        reason = f"cannot subscribe: the broker denies {', '.join(denied)}" if denied else None
        if reason and reason != self._denied:
            log.warning("%s; asking again every %.0f s", reason, ASK_AGAIN)
        self._denied = reason

    def _on_unsubscribe(
        self, _client: Client, _data: Any, _mid: int, _codes: Any, _properties: Any
    ) -> None:
        self._stale = []

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._arrived.append(message)

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        phase, self._phase = self._phase, "away"
        if phase == "up":
            self._down(f"lost the broker {self._where()}: {code}")
        elif phase == "dialling":
            # TLS 1.3 says only after the handshake that the client's certificate is not welcome.
            self._down(
                f"cannot log in to the broker {self._where()}: it ended the connection ({code}); "
                "check the certificate"
            )

    # -- topics -------------------------------------------------------------------------------

    def _begin(self, client: Client, stop: threading.Event) -> bool:
        """Give a new session its name, then subscribe: False if the disk does not take it.

        Before the first subscription, for with it messages come under ids that the session before
        had too: one whose first delivery was cut would be taken for an older one.
        """
        try:
            self._session = self._begin_session()
        except StorageError:
            client.loop_misc()
            stop.wait(FULL_WAIT)
            return False
        self._unbegun = False
        self._subscribe(client)
        return True

    def _subscribe(self, client: Client) -> None:
        self._ask_again_at = self._monotonic() + ASK_AGAIN
        if self._broker.protocol != "5":
            client.subscribe([(topic, QOS) for topic in self._subscriptions])
            return
        # What the session has already needs no retained messages again.
        once = SubscribeOptions(qos=QOS, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        client.subscribe([(topic, once) for topic in self._subscriptions])

    def _look_after_topics(self, client: Client) -> None:
        """Ask again for what was denied; keep the list once the session holds nothing else."""
        if self._denied and self._monotonic() >= self._ask_again_at:
            self._subscribe(client)
        if self.connected.is_set() and not self._stale and not self._told:
            self._told = True
            self._remember([*self._subscriptions])

    # -- messages -----------------------------------------------------------------------------

    def _read(self, client: Client) -> None:
        """Read until nothing more is there or the batch is full."""
        sock: Any = client.socket()
        writing = [sock] if client.want_write() else []
        if not self._pending(sock):
            readable, writable, _ = select.select([sock], writing, [], TICK)
            if writable:
                client.loop_write()
            if not readable:
                return
        size = 0
        while client.socket() is not None and len(self._arrived) < BATCH_MESSAGES:
            before = len(self._arrived)
            client.loop_read()
            if len(self._arrived) > before:
                size += len(self._arrived[-1].payload)
            elif self._quiet(client):
                return
            if size >= BATCH_BYTES:
                return

    def _quiet(self, client: Client) -> bool:
        """Whether nothing more comes for a moment: what does shares the commit."""
        sock: Any = client.socket()
        if sock is None:
            return True
        return not self._pending(sock) and not select.select([sock], [], [], GATHER)[0]

    @staticmethod
    def _pending(sock: Any) -> bool:
        """Whether TLS holds bytes that select cannot see."""
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def _commit(self, client: Client, stop: threading.Event) -> None:
        """Commit the batch and acknowledge what was taken, in the order of arrival.

        What the full queue did not take stays in the batch, unacknowledged, and nothing more is
        read, so the broker holds the rest. If that takes longer than a keepalive, the connection
        ends, the batch is forgotten, and the broker sends it again.
        """
        taking = [m for m in self._arrived if self._wanted(m)]
        answers = self._door.admit_many([self._message(m) for m in taking])
        # By identity: paho calls two messages equal when their ids are, and all QoS 0 ids are 0.
        pairs = zip(taking, answers, strict=True)
        kept = {id(message) for message, answer in pairs if isinstance(answer, Full)}
        for message in self._arrived:
            if id(message) not in kept:
                client.ack(message.mid, message.qos)
        self._arrived = [message for message in self._arrived if id(message) in kept]
        if kept:
            stop.wait(FULL_WAIT)

    def _wanted(self, message: MQTTMessage) -> bool:
        """A retained message is old news of unknown age, and comes again at every start."""
        if not message.retain or self._subscription(message).retained:
            return True
        self._door.refuse("retained")
        return False

    def _message(self, message: MQTTMessage) -> Message:
        topic, payload = _topic(message) or "", bytes(message.payload)
        arrival = _arrival(message, topic, self._session)
        return self._subscription(message).message(topic, payload, arrival)

    def _subscription(self, message: MQTTMessage) -> Subscription:
        """The one that fits; a message of an unsubscribed topic has the defaults."""
        topic = _topic(message)
        fits = None if topic is None else fitting(self._subscriptions.values(), topic)
        return fits or Subscription(topic=topic or "")


def fitting(subscriptions: Iterable[Subscription], topic: str) -> Subscription | None:
    """The first subscription whose filter fits the topic."""
    return next((each for each in subscriptions if _matches(each.topic, topic)), None)


def _arrival(message: MQTTMessage, topic: str, session: str) -> Arrival:
    """What is sent with QoS 0 comes once at most, and has no id."""
    if not message.qos:
        return ONCE
    known_by = delivery(topic, message.mid, bytes(message.payload), session=session)
    return Arrival(known_by, again=message.dup)


def _topic(message: MQTTMessage) -> str | None:
    """The topic; None for bytes that are no text."""
    try:
        return message.topic
    except UnicodeDecodeError:
        return None


def _matches(filter_: str, topic: str) -> bool:
    """Whether the filter fits the topic; a shared one without its prefix."""
    if filter_.startswith("$share/"):
        filter_ = filter_.split("/", 2)[2]
    return topic_matches_sub(filter_, topic)


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        files = [str(f) for f in (tls.ca_file, tls.certificate_file, tls.key_file) if f]
        raise SourceUnavailable(
            f"cannot use the certificates for MQTT ({', '.join(files)}): {_reason(error)}"
        ) from error
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
