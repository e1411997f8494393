"""The tables of the configuration as frozen dataclasses: every default, and how each key is read.

The annotations say how each key is read (`readers.Reader`); structure.py walks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from agent.config import addresses, mapping, readers
from agent.config.device import DeviceSettings
from agent.config.kinds import MappedParams, Scalars
from agent.config.stream import StreamSettings

_MQTT_PORT: Final = 1883
_MQTT_TLS_PORT: Final = 8883

_CAP: Final = 64 * 2**20
_CAP_LEAST: Final = 4 * 2**20
_OF_THE_DISK: Final = 20

_StreamName = Annotated[
    str,
    readers.matching("[A-Za-z0-9_-]{1,32}", expected="a name of 1 to 32 letters, digits, _ and -"),
]


def _word(words: tuple[str, ...]) -> readers.Reader:
    """Read a word or a template; which words there are is a rule, because braces may hide one."""
    return readers.text(expected=mapping.one_of(words), fits=lambda _: True)


def _id_template(noun: str) -> readers.Reader:
    return readers.id_template(expected=f"one line of 1 to 256 characters for the {noun}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """The sittings of visitors whose ids the agent makes."""

    enabled: Annotated[bool, readers.switch()] = True
    timeout: Annotated[float, readers.duration(low="1 s", high="4 h")] = 30 * 60.0
    """Seconds without a visitor's event after which the next one opens a sitting."""
    longest: Annotated[float, readers.duration(low="1 s", high="24 h")] = 24 * 3600.0
    """Seconds after which a sitting ends whatever happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The door for programs on this device."""

    enabled: Annotated[bool, readers.switch()] = True
    listen: Annotated[str, addresses.listen()] = "127.0.0.1:8787"
    token_file: Annotated[Path | None, readers.secret_path()] = None
    hosts: Annotated[
        tuple[Annotated[str, addresses.host()], ...],
        readers.array(expected="an array of host names"),
    ] = ()
    """Host names besides the loopback ones that requests may name, in lower case."""
    origins: Annotated[
        tuple[Annotated[str, addresses.origin()], ...],
        readers.array(expected="an array of origins"),
    ] = ()
    """Origins of web pages that may send events."""
    max_body: Annotated[int, readers.size(low="128 KiB", high="16 MiB")] = 2**20
    """Bytes; a Measurement Protocol body of 130,000 bytes always fits."""
    read_deadline: Annotated[float, readers.duration(low="1 s", high="2 min")] = 10.0
    """Seconds for a whole request to arrive."""
    threads: Annotated[int, readers.number(2, 64)] = 8

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on; None for a unix socket. Port 0 is any free port."""
        return addresses.split_listen(self.listen)

    @property
    def unix_path(self) -> Path | None:
        """Path of the unix socket to listen on; None for an address."""
        return addresses.split_unix(self.listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSettings:
    """One MQTT topic filter, and what its messages become.

    With `event`, each message becomes one event; else the payload is JSON events, and what the
    mapping says is put on those that do not say it. The texts are templates (`agent.template`);
    what may name a person is not shown by repr.
    """

    topic: Annotated[str, addresses.topic()]
    """As it was written, with the names of its wildcards."""
    stream: Annotated[
        str | None, readers.text(expected="the name of a configured stream", fits=lambda _: True)
    ] = None
    """None: the default stream."""
    priority: Annotated[str, _word(mapping.PRIORITIES)] = "normal"
    retained: Annotated[bool, readers.switch()] = False
    """Take retained messages as well; the broker repeats them at every new session."""
    event: Annotated[
        str | None, readers.text(expected="the name of an event, or a template", fits=bool)
    ] = None
    params: MappedParams = field(default_factory=dict, repr=False)
    """`items` may be a table or an array of tables."""
    time: Annotated[
        str | None, readers.text(expected='a template such as "{json.time}"', fits=bool)
    ] = None
    """When it happened, by the publisher's clock; None: when the message came."""
    clock: Annotated[Literal["device", "publisher"], readers.choice("device", "publisher")] = (
        "publisher"
    )
    """Whose clock a publisher's times are of; those of this device's are corrected."""
    client_id: Annotated[str | None, _id_template("client id")] = field(default=None, repr=False)
    client_key: Annotated[str | None, _id_template("client key")] = field(default=None, repr=False)
    """What a client id is made of, by way of the device's salt."""
    app_instance_id: Annotated[str | None, _id_template("app instance id")] = field(
        default=None, repr=False
    )
    user_id: Annotated[str | None, _id_template("user id")] = field(default=None, repr=False)
    user_properties: Scalars = field(default_factory=dict, repr=False)
    event_id: Annotated[str | None, _id_template("event id")] = field(default=None, repr=False)
    actor: Annotated[str | None, _word(mapping.ACTORS)] = None
    session: Annotated[str | None, _word(mapping.SESSIONS)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """The MQTT broker and what is subscribed there."""

    host: Annotated[str, addresses.host()]
    port: Annotated[int | None, readers.number(1, addresses.PORT_MAX)] = None
    """None: the usual one, see `broker_port`."""
    client_id: Annotated[
        str, readers.identifier(expected='"auto" or a client id of one line', longest=256)
    ] = field(default="auto", repr=False)
    username: Annotated[
        str | None, readers.identifier(expected="a username of one line", longest=256)
    ] = field(default=None, repr=False)
    password_file: Annotated[Path | None, readers.secret_path()] = None
    protocol: Annotated[Literal["5", "3.1.1"], readers.choice("5", "3.1.1")] = "5"
    keepalive: Annotated[float, readers.duration(low="5 s", high="20 min")] = 60.0
    """Seconds."""
    session_expiry: Annotated[float, readers.duration(low="1 min", high="365 days")] = 7 * 86_400.0
    """Seconds for which the broker keeps messages for an absent agent; MQTT 5 only."""
    reconnect_max: Annotated[float, readers.duration(low="1 s", high="10 min")] = 30.0
    """Seconds between two attempts at most."""
    tls: Annotated[bool, readers.switch()] = False
    ca_file: Annotated[Path | None, readers.path()] = None
    certificate_file: Annotated[Path | None, readers.path()] = None
    key_file: Annotated[Path | None, readers.secret_path()] = None
    subscriptions: Annotated[
        tuple[SubscriptionSettings, ...],
        readers.array(expected="at least one [[mqtt.subscriptions]] table", least=1),
    ]

    @property
    def broker_port(self) -> int:
        """The configured port, else the usual one with or without TLS."""
        return self.port or (_MQTT_TLS_PORT if self.tls else _MQTT_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """The folder for events as files."""

    enabled: Annotated[bool, readers.switch()] = True
    directory: Annotated[Path | None, readers.path()] = None
    """None: the folder ``spool`` in the state directory, see `Config.spool_directory`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """The queue on the disk."""

    max_bytes: Annotated[
        int | Literal["auto"], readers.or_auto(readers.size(low="4 MiB", high="256 GiB"))
    ] = "auto"
    """Bytes that everything may take together; see `cap_on`."""
    on_full: Annotated[Literal["evict", "refuse"], readers.choice("evict", "refuse")] = "evict"

    def cap_on(self, disk_bytes: int) -> int:
        """The cap on a disk of that size: the configured one, else a twentieth, at most 64 MiB."""
        if self.max_bytes != "auto":
            return self.max_bytes
        return max(_CAP_LEAST, min(_CAP, disk_bytes // _OF_THE_DISK))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How events leave for Google Analytics."""

    max_delay: Annotated[float, readers.duration(low="0 s", high="1 h")] = 2.0
    """Seconds for which an event may wait for others to share its request."""
    timeout: Annotated[float, readers.duration(low="1 s", high="2 min")] = 20.0
    """Seconds for one request as a whole."""
    connections: Annotated[int, readers.number(1, 16)] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """The way out of this device's network."""

    proxy: Annotated[str | None, addresses.proxy()] = field(default=None, repr=False)
    """May hold a password: never print it."""
    ca_file: Annotated[Path | None, readers.path()] = None
    """Certificate authorities as PEM; None: those of the system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log on stderr."""

    level: Annotated[
        Literal["info", "debug", "warning"], readers.choice("info", "debug", "warning")
    ] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one agent."""

    state_directory: Annotated[Path, readers.path()] = Path("/var/lib/ga4-agent")
    volatile: Annotated[bool, readers.switch()] = False
    """It is known and wanted that the state does not survive a reboot."""
    stream: Annotated[
        Mapping[_StreamName, StreamSettings], readers.table(expected="tables such as [stream.main]")
    ] = field(default_factory=dict)
    """By name, in the order of the file. Without any, the agent keeps events and sends none."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    session: SessionSettings = field(default_factory=SessionSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    mqtt: MqttSettings | None = None
    spool: SpoolSettings = field(default_factory=SpoolSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    log: LogSettings = field(default_factory=LogSettings)

    @property
    def spool_directory(self) -> Path:
        """The folder that event files are put into."""
        return self.spool.directory or self.state_directory / "spool"

    @property
    def default_stream(self) -> str | None:
        """Name of the stream of events that name none: the first in the file."""
        return next(iter(self.stream), None)
