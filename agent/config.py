"""The configuration: TOML to frozen dataclasses. Every default and every check lives here.

`load` and `parse` either give a whole `Config` or raise one `ConfigError` with every problem at
once, because whoever corrects the file may be on the phone with someone else who types.

How it works: the dataclasses say in their annotations how each key is read (`_Reader`); cattrs
walks the tables and collects what the readers refuse; rules between keys look at the raw tables,
so that a bad key in one place hides no problem in another.

A value that may be secret or may name a person is never repeated in a message.
"""

import difflib
import functools
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from agent.units import UnitError, format_size, parse_duration, parse_size

_TEXT_MAX: Final = 2**20
_SHOWN: Final = 60  # characters of a wrong text that a message repeats
_HUGE: Final = 10**20  # Python refuses to print integers of thousands of digits
_UNIX_PATH_MAX: Final = 107  # bytes that fit into sockaddr_un.sun_path beside its end
_TOPIC_MAX: Final = 65_535  # bytes of an MQTT string
_PORT_MAX: Final = 65_535
_MQTT_PORT: Final = 1883
_MQTT_TLS_PORT: Final = 8883

_Place = tuple[str | int, ...]


# ---------------------------------------------------------------- problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to correct: where it is, what was found there, and what would do."""

    file: str
    key: str
    """Path of the key, such as ``mqtt.subscriptions[1].topic``; "" for the file as a whole."""
    found: str
    expected: str
    hint: str = ""
    """What to do, where that is more than to write what was expected."""

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}: found {self.found}, expected {self.expected}{hint}"


class ConfigError(Exception):
    """A configuration that cannot be used; its text has one line for each of its problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class _MisfitError(Exception):
    """A value that a reader refuses. Without `expected`, the reader's own expectation stands."""

    def __init__(self, found: str, *, expected: str = "", hint: str = "", at: _Place = ()) -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected
        self.hint = hint
        self.at = at


def _quote(text: str) -> str:
    if "@" in text or "?" in text:
        return "a text that may hold a secret (not shown)"  # a URL with a password or a query
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _describe(value: object) -> str:
    """Name a value as its author knows it."""
    match value:
        case bool():
            return str(value).lower()
        case int() if abs(value) >= _HUGE:
            return "a huge number"
        case int() | float():
            return str(value)
        case str():
            return _quote(value)
        case _:
            return _kind(value)


def _kind(value: object) -> str:
    """Name the kind of a value whose content must not be shown."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


# ---------------------------------------------------------------- readers of single values


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a value is read, and what to tell people whose value cannot be."""

    expected: str
    read: Callable[[Any], object]
    """Gives the value as it is kept, or raises _MisfitError."""
    outer: bool = False
    """Only the outer shape was read; cattrs goes on inside."""


def _table(*, expected: str) -> _Reader:
    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise _MisfitError(_kind(value))
        return value

    return _Reader(expected, read, outer=True)


def _array(*, expected: str, least: int = 0) -> _Reader:
    def read(value: object) -> object:
        if not isinstance(value, list) or len(value) < least:
            raise _MisfitError(_kind(value))
        return value

    return _Reader(expected, read, outer=True)


def _switch() -> _Reader:
    def read(value: object) -> object:
        if not isinstance(value, bool):
            raise _MisfitError(_describe(value))
        return value

    return _Reader("true or false", read)


def _choice(*words: str) -> _Reader:
    def read(value: object) -> object:
        if value in words:
            return value
        shown = _describe(value)
        hint = "put it into quotation marks" if shown in words else ""
        raise _MisfitError(shown, hint=hint)

    return _Reader(" or ".join(f'"{word}"' for word in words), read)


def _number(low: int, high: int) -> _Reader:
    def read(value: object) -> object:
        if type(value) is not int or not low <= value <= high:
            raise _MisfitError(_describe(value))
        return value

    return _Reader(f"a whole number from {low} to {high}", read)


def _quantity(parser: Callable[[str | float], float], *, noun: str, low: str, high: str) -> _Reader:
    least, most = parser(low), parser(high)

    def read(value: object) -> object:
        if not isinstance(value, str | int | float):
            raise _MisfitError(_describe(value))
        try:
            quantity = parser(value)
        except UnitError as error:
            raise _MisfitError(_describe(value), expected=error.expected) from None
        if not least <= quantity <= most:
            raise _MisfitError(_describe(value))
        return quantity

    return _Reader(f"a {noun} from {low} to {high}", read)


_duration = functools.partial(_quantity, parse_duration, noun="duration")
_size = functools.partial(_quantity, parse_size, noun="size")


def _text(
    *, expected: str, fits: Callable[[str], bool], show: Callable[[object], str] = _describe
) -> _Reader:
    """Read a text that `fits`; `show` decides how much of another one a message repeats."""

    def read(value: object) -> object:
        if not isinstance(value, str) or not fits(value):
            raise _MisfitError(show(value))
        return value

    return _Reader(expected, read)


def _matching(pattern: str, *, expected: str) -> _Reader:
    compiled = re.compile(pattern)
    return _text(expected=expected, fits=lambda text: compiled.fullmatch(text) is not None)


def _identifier(*, expected: str, longest: int) -> _Reader:
    """Read an id of a device or a person: one line, and never repeated in a message."""
    return _text(
        expected=expected,
        fits=lambda text: 0 < len(text) <= longest and text.isprintable() and text == text.strip(),
        show=_kind_of_text,
    )


def _kind_of_text(value: object) -> str:
    return "another text (not shown)" if isinstance(value, str) else _kind(value)


def _path(*, show: Callable[[object], str] = _describe) -> _Reader:
    """Read an absolute path: the service and the commands run in different folders."""

    def read(value: object) -> object:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise _MisfitError(show(value))
        return Path(value)

    return _Reader("an absolute path, one that starts with /", read)


def _secret_path() -> _Reader:
    """Read the path of a secret file; some put the secret itself there, so it is not repeated."""
    return _path(show=_kind_of_text)


def _scalar(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise _MisfitError(str(value))
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise _MisfitError("a number of more than 64 bits")
    if not isinstance(value, str | int | float):
        raise _MisfitError(_kind(value))
    return value


# ---------------------------------------------------------------- readers of addresses

_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9_.-]+(?::[0-9]{1,5})?")
_LISTEN: Final = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_host(text: str) -> bool:
    return _is_ip(text) or _HOST.fullmatch(text) is not None


def _host() -> _Reader:
    def read(value: object) -> object:
        if not isinstance(value, str) or not _is_host(value):
            raise _MisfitError(_describe(value))
        return value.lower()

    return _Reader("a host name or an IP address, without scheme and port", read)


def _origin() -> _Reader:
    return _text(
        expected='an origin such as "https://kiosk.example", or "null" for pages from files',
        fits=lambda text: text == "null" or _ORIGIN.fullmatch(text) is not None,
    )


def _split_url(text: str) -> SplitResult | None:
    """Split an http or https URL that has a sound host and port and no path; else None."""
    # urlsplit drops line breaks and tabs without a word.
    if not text.isascii() or not text.isprintable() or " " in text:
        return None
    try:
        parts = urlsplit(text)
        sound = parts.port != 0 and _is_host(parts.hostname or "")
    except ValueError:
        return None
    plain = parts.scheme in {"http", "https"} and parts.path in {"", "/"}
    sound = sound and not parts.netloc.endswith(":")
    return parts if sound and plain and not set("?#\\") & set(text) else None


def _endpoint() -> _Reader:
    def read(value: object) -> object:
        text = value if isinstance(value, str) else ""
        parts = _split_url(text)
        if parts is None or not _is_safe(parts):
            hint = "leave the path out: the agent adds it" if "/mp/" in text else ""
            raise _MisfitError(_describe(value), hint=hint)
        return f"{parts.scheme}://{parts.netloc.lower()}"

    return _Reader(
        "an https URL of host and perhaps port, or an http URL of this machine itself", read
    )


def _is_safe(endpoint: SplitResult) -> bool:
    """No user in it, and either encrypted or never on a wire."""
    encrypted = endpoint.scheme == "https" or _is_loopback(endpoint.hostname or "")
    return "@" not in endpoint.netloc and encrypted


def _proxy() -> _Reader:
    return _text(
        expected="a proxy URL such as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT",
        # Not https: requests would verify the proxy with the certificates meant for GA4.
        fits=lambda text: text.startswith("http://") and _split_url(text) is not None,
        show=_kind_of_text,
    )


def _split_listen(text: str) -> tuple[str, int] | None:
    """Host and port of ``127.0.0.1:8787`` or ``[::1]:8787``; None for anything else."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > _PORT_MAX:
        return None
    host = match[1] or match[2]
    # Brackets belong to IPv6 and only there.
    if match[2] == "localhost" or (_is_ip(host) and (":" in host) == (match[1] is not None)):
        return host, int(match[3])
    return None


def _split_unix(text: str) -> Path | None:
    path = text.removeprefix("unix:")
    fits = path.startswith("/") and "\0" not in path and len(path.encode()) <= _UNIX_PATH_MAX
    return Path(path) if fits and path != text else None


def _listen() -> _Reader:
    return _text(
        expected='"IP:PORT", "[IPv6]:PORT" or "unix:/PATH" (107 bytes of path at most)',
        fits=lambda text: bool(_split_listen(text) or _split_unix(text)),
    )


def _topic_flaw(topic: str) -> str:
    """Say what the MQTT rules expect instead of this topic filter, or ""."""
    if "\0" in topic or len(topic.encode()) > _TOPIC_MAX:
        return "no NUL and 65535 bytes at most"
    shared, _, rest = topic.partition("/")
    if shared == "$share":
        group, _, topic = rest.partition("/")
        if not group or set(group) & set("+#") or not topic:
            return "$share/GROUP/FILTER, the group without + and #"
    *before, last = topic.split("/")
    if not topic:
        return "a topic or a filter such as kiosk/+/events"
    if any("#" in level for level in before) or ("#" in last and last != "#"):
        return "# as the whole last level, as in kiosk/#"
    if any("+" in level and level != "+" for level in (*before, last)):
        return "+ as a whole level, as in kiosk/+/events"
    return ""


def _topic() -> _Reader:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise _MisfitError(_describe(value))
        if flaw := _topic_flaw(value):
            raise _MisfitError(_quote(value), expected=flaw)
        return value

    return _Reader("an MQTT topic or a filter such as kiosk/+/events", read)


# ---------------------------------------------------------------- the tables

_Scalar = Annotated[
    str | int | float | bool,
    _Reader("a text, true or false, or a finite number of 64 bits at most", _scalar),
]
_Scalars = Annotated[Mapping[str, _Scalar], _table(expected="a table of names and values")]
_StreamName = Annotated[
    str,
    _matching("[A-Za-z0-9_-]{1,32}", expected="a name of 1 to 32 letters, digits, _ and -"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """One GA4 data stream: a web stream by measurement_id or an app stream by firebase_app_id."""

    measurement_id: Annotated[
        str | None, _matching("G-[A-Z0-9]+", expected="a measurement id such as G-ABCDE12345")
    ] = None
    firebase_app_id: Annotated[
        str | None,
        _matching(
            "[0-9]:[0-9]+:[A-Za-z]+:[A-Za-z0-9]+",
            expected="a Firebase app id such as 1:1234567890:android:abcdef012345",
        ),
    ] = None
    endpoint: Annotated[str, _endpoint()] = "https://www.google-analytics.com"
    """Scheme and host, without a slash at the end; https, or http on loopback."""
    api_secret_file: Annotated[Path | None, _secret_path()] = None
    accept_body: Annotated[bool, _switch()] = False
    """An own server container may answer with a body; Google's server does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """Whom events belong to that name no sender, and what is put on every event.

    None of it is shown by repr: it may name a person.
    """

    client_id: Annotated[
        str, _identifier(expected='"auto" or a client id of one line', longest=256)
    ] = field(default="auto", repr=False)
    app_instance_id: Annotated[
        str | None,
        _text(
            expected="32 hexadecimal digits",
            fits=lambda text: re.fullmatch("[0-9A-Fa-f]{32}", text) is not None,
            show=_kind_of_text,
        ),
    ] = field(default=None, repr=False)
    user_id: Annotated[
        str | None, _identifier(expected="a user id of 1 to 256 characters", longest=256)
    ] = field(default=None, repr=False)
    user_properties: _Scalars = field(default_factory=dict, repr=False)
    params: _Scalars = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The door for programs on this device."""

    enabled: Annotated[bool, _switch()] = True
    listen: Annotated[str, _listen()] = "127.0.0.1:8787"
    token_file: Annotated[Path | None, _secret_path()] = None
    hosts: Annotated[
        tuple[Annotated[str, _host()], ...], _array(expected="an array of host names")
    ] = ()
    """Host names besides the loopback ones that requests may name, in lower case."""
    origins: Annotated[
        tuple[Annotated[str, _origin()], ...], _array(expected="an array of origins")
    ] = ()
    """Origins of web pages that may send events."""
    max_body: Annotated[int, _size(low="128 KiB", high="16 MiB")] = 2**20
    """Bytes; a Measurement Protocol body of 130,000 bytes always fits."""
    read_deadline: Annotated[float, _duration(low="1 s", high="2 min")] = 10.0
    """Seconds for a whole request to arrive."""
    threads: Annotated[int, _number(2, 64)] = 8

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on; None for a unix socket. Port 0 is any free port."""
        return _split_listen(self.listen)

    @property
    def unix_path(self) -> Path | None:
        """Path of the unix socket to listen on; None for an address."""
        return _split_unix(self.listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSettings:
    """One MQTT topic filter, and what its messages become."""

    topic: Annotated[str, _topic()]
    stream: Annotated[
        str | None, _text(expected="the name of a configured stream", fits=lambda _: True)
    ] = None
    """None: the default stream."""
    priority: Annotated[Literal["high", "normal", "low"], _choice("high", "normal", "low")] = (
        "normal"
    )
    retained: Annotated[bool, _switch()] = False
    """Take retained messages as well; the broker repeats them at every new session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """The MQTT broker and what is subscribed there."""

    host: Annotated[str, _host()]
    port: Annotated[int | None, _number(1, _PORT_MAX)] = None
    """None: the usual one, see `broker_port`."""
    client_id: Annotated[
        str, _identifier(expected='"auto" or a client id of one line', longest=256)
    ] = field(default="auto", repr=False)
    username: Annotated[str | None, _identifier(expected="a username of one line", longest=256)] = (
        field(default=None, repr=False)
    )
    password_file: Annotated[Path | None, _secret_path()] = None
    protocol: Annotated[Literal["5", "3.1.1"], _choice("5", "3.1.1")] = "5"
    keepalive: Annotated[float, _duration(low="5 s", high="20 min")] = 60.0
    """Seconds."""
    session_expiry: Annotated[float, _duration(low="1 min", high="365 days")] = 7 * 86_400.0
    """Seconds for which the broker keeps messages for an absent agent; MQTT 5 only."""
    reconnect_max: Annotated[float, _duration(low="1 s", high="10 min")] = 30.0
    """Seconds between two attempts at most."""
    tls: Annotated[bool, _switch()] = False
    ca_file: Annotated[Path | None, _path()] = None
    certificate_file: Annotated[Path | None, _path()] = None
    key_file: Annotated[Path | None, _secret_path()] = None
    subscriptions: Annotated[
        tuple[SubscriptionSettings, ...],
        _array(expected="at least one [[mqtt.subscriptions]] table", least=1),
    ]

    @property
    def broker_port(self) -> int:
        """The configured port, else the usual one with or without TLS."""
        return self.port or (_MQTT_TLS_PORT if self.tls else _MQTT_PORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """The queue on the disk."""

    max_bytes: Annotated[int, _size(low="4 MiB", high="256 GiB")] = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How events leave for Google Analytics."""

    max_delay: Annotated[float, _duration(low="0 s", high="1 h")] = 2.0
    """Seconds for which an event may wait for others to share its request."""
    timeout: Annotated[float, _duration(low="1 s", high="2 min")] = 20.0
    """Seconds for one request as a whole."""
    connections: Annotated[int, _number(1, 16)] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """The way out of this device's network."""

    proxy: Annotated[str | None, _proxy()] = field(default=None, repr=False)
    """May hold a password: never print it."""
    ca_file: Annotated[Path | None, _path()] = None
    """Certificate authorities as PEM; None: those of the system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log on stderr."""

    level: Annotated[Literal["info", "debug", "warning"], _choice("info", "debug", "warning")] = (
        "info"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one agent."""

    state_directory: Annotated[Path, _path()] = Path("/var/lib/ga4-agent")
    volatile: Annotated[bool, _switch()] = False
    """It is known and wanted that the state does not survive a reboot."""
    stream: Annotated[
        Mapping[_StreamName, StreamSettings], _table(expected="tables such as [stream.main]")
    ] = field(default_factory=dict)
    """By name, in the order of the file. Without any, the agent keeps events and sends none."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    mqtt: MqttSettings | None = None
    queue: QueueSettings = field(default_factory=QueueSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    log: LogSettings = field(default_factory=LogSettings)

    @property
    def default_stream(self) -> str | None:
        """Name of the stream of events that name none: the first in the file."""
        return next(iter(self.stream), None)


# ---------------------------------------------------------------- rules between keys


def _check_stream(table: Mapping[str, Any]) -> Iterator[_MisfitError]:
    named = {"measurement_id", "firebase_app_id"} & table.keys()
    if len(named) != 1:
        found = "both measurement_id and" if named else "neither measurement_id nor"
        yield _MisfitError(f"{found} firebase_app_id", expected="exactly one of them")


def _check_http(table: Mapping[str, Any]) -> Iterator[_MisfitError]:
    listen = table.get("listen")
    address = _split_listen(listen) if isinstance(listen, str) else None
    if address is None or _is_loopback(address[0]):
        return
    if "token_file" not in table and table.get("enabled") is not False:
        yield _MisfitError(
            "nothing",
            expected=f"a token file, because other machines can reach {listen}",
            hint="set it, or listen on 127.0.0.1",
            at=("token_file",),
        )


def _check_mqtt(table: Mapping[str, Any]) -> Iterator[_MisfitError]:
    yield from _check_mqtt_tls(table)
    yield from _check_mqtt_protocol(table)
    yield from _check_mqtt_topics(table.get("subscriptions"))


def _check_mqtt_tls(table: Mapping[str, Any]) -> Iterator[_MisfitError]:
    if table.get("tls", False) is False:
        for key in ("ca_file", "certificate_file", "key_file"):
            if key in table:
                yield _MisfitError("a file without tls", expected="tls = true beside it", at=(key,))
    for key, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if key in table and other not in table:
            yield _MisfitError("nothing", expected=f"the file that goes with {key}", at=(other,))


def _check_mqtt_protocol(table: Mapping[str, Any]) -> Iterator[_MisfitError]:
    if table.get("protocol") != "3.1.1":
        return
    if "session_expiry" in table:
        yield _MisfitError(
            'a duration although protocol = "3.1.1"',
            expected='protocol = "5", the only one that knows it',
            hint="remove one of the two",
            at=("session_expiry",),
        )
    if "password_file" in table and "username" not in table:
        yield _MisfitError(
            "nothing",
            expected="a username, because MQTT 3.1.1 takes no password without one",
            at=("username",),
        )


def _check_mqtt_topics(subscriptions: object) -> Iterator[_MisfitError]:
    """Refuse a filter given twice: a broker replaces the first subscription by the second."""
    seen: dict[str, int] = {}
    for index, table in _tables(subscriptions):
        topic = table.get("topic")
        if not isinstance(topic, str):
            continue
        first = seen.setdefault(topic, index)
        if first != index:
            yield _MisfitError(
                f"the topic of mqtt.subscriptions[{first}] again",
                expected="each topic once",
                at=("subscriptions", index, "topic"),
            )


def _check_config(table: Mapping[str, Any]) -> Iterator[_MisfitError]:
    """Refuse subscriptions that name a stream that is not there."""
    streams, mqtt = table.get("stream", {}), table.get("mqtt")
    if not isinstance(streams, dict) or not isinstance(mqtt, dict):
        return
    for index, subscription in _tables(mqtt.get("subscriptions")):
        name = subscription.get("stream")
        if isinstance(name, str) and name not in streams:
            known = f"one of the streams {', '.join(map(_bare, streams))}"
            yield _MisfitError(
                _quote(name),
                expected=known
                if streams
                else "the name of a stream that has a [stream.NAME] table",
                hint=_did_you_mean(name, list(streams), likeness=0.6),
                at=("mqtt", "subscriptions", index, "stream"),
            )


def _no_rules(_: Mapping[str, Any]) -> Iterator[_MisfitError]:
    return iter(())


def _tables(array: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, table in enumerate(array if isinstance(array, list) else ()):
        if isinstance(table, dict):
            yield index, table


_RULES: Final[Mapping[type, Callable[[Mapping[str, Any]], Iterator[_MisfitError]]]] = {
    StreamSettings: _check_stream,
    HttpSettings: _check_http,
    MqttSettings: _check_mqtt,
    Config: _check_config,
}


# ---------------------------------------------------------------- unknown keys

_TABLES: Final[Mapping[type, str]] = {
    Config: "",
    StreamSettings: "[stream.NAME]",
    DeviceSettings: "[device]",
    HttpSettings: "[http]",
    MqttSettings: "[mqtt]",
    SubscriptionSettings: "[[mqtt.subscriptions]]",
    QueueSettings: "[queue]",
    DeliverySettings: "[delivery]",
    NetworkSettings: "[network]",
    LogSettings: "[log]",
}


def _keys(table: Any) -> list[str]:
    return [key.name for key in fields(table)]


def _did_you_mean(word: str, words: Sequence[str], *, likeness: float) -> str:
    close = difflib.get_close_matches(word[:_SHOWN], words, n=1, cutoff=likeness)
    return f"did you mean {_bare(close[0])}?" if close else ""


def _belongs(key: str) -> str:
    places = [place for table, place in _TABLES.items() if key in _keys(table)]
    if places == [""]:
        return "this key belongs at the top of the file, before the first table"
    return f"this key belongs under {' or '.join(filter(None, places))}" if places else ""


def _elsewhere(key: str) -> str:
    """Suggest a similar key of any table."""
    for table, place in _TABLES.items():
        if place and (hint := _did_you_mean(key, _keys(table), likeness=0.8)):
            return f"{hint.removesuffix('?')} under {place}?"
    return ""


def _unknown_key(table: type, key: str) -> _MisfitError:
    """Suggest the slip of the finger first, then the wrong table, then the distant likeness."""
    own = _keys(table)
    return _MisfitError(
        "an unknown key",
        expected=f"a key of {_TABLES[table] or 'the configuration'}",
        hint=_did_you_mean(key, own, likeness=0.8)
        or _belongs(key)
        or _did_you_mean(key, own, likeness=0.6)
        or _elsewhere(key)
        or f"the keys here are {', '.join(own)}",
    )


# ---------------------------------------------------------------- tables to dataclasses


def _reader_of(kind: Any) -> _Reader | None:
    if get_origin(kind) is not Annotated:
        return None
    return next((note for note in get_args(kind)[1:] if isinstance(note, _Reader)), None)


@functools.cache  # cattrs writes a function for each table: once is enough
def _converter() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def read(value: object, kind: Any) -> object:
        reader = _reader_of(kind)
        assert reader is not None
        result = reader.read(value)
        return converter.structure(result, get_args(kind)[0]) if reader.outer else result

    converter.register_structure_hook_func(lambda kind: _reader_of(kind) is not None, read)
    converter.register_structure_hook_factory(
        is_dataclass, lambda kind: _table_hook(kind, converter)
    )
    return converter


def _table_hook(table: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Read one table: its keys through cattrs, and the rules between them."""
    structure = make_dict_structure_fn(
        table,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
    )
    rules = _RULES.get(table, _no_rules)

    def read(value: Any, kind: Any) -> Any:
        if not isinstance(value, dict):
            raise _MisfitError(_kind(value), expected=f"a table {_TABLES[table]}")
        result = None
        errors: list[Exception] = []
        try:
            result = structure(value, kind)
        except ClassValidationError as error:
            errors.extend(error.exceptions)
        errors.extend(rules(value))
        if errors:
            raise ClassValidationError(table.__name__, errors, table)
        return result

    return read


def _misfits(error: BaseValidationError, place: _Place) -> Iterator[tuple[_Place, _MisfitError]]:
    """Find every refusal in a tree of cattrs' errors, with the place that it is about."""
    for cause in error.exceptions:
        here, kind = _step(cause)
        yield from _misfits_of(cause, (*place, *here), kind)


def _misfits_of(
    cause: BaseException, place: _Place, kind: Any
) -> Iterator[tuple[_Place, _MisfitError]]:
    reader = _reader_of(kind)
    expected = reader.expected if reader else ""
    match cause:
        case BaseValidationError():
            yield from _misfits(cause, place)
        case ForbiddenExtraKeysError():
            for key in sorted(cause.extra_fields):
                yield (*place, key), _unknown_key(cause.cl, key)
        case KeyError():  # the way in which cattrs reports a key without default
            yield place, _MisfitError("nothing", expected=expected)
        case _MisfitError():
            cause.expected = cause.expected or expected
            yield (*place, *cause.at), cause
        case _:
            raise cause


def _step(cause: BaseException) -> tuple[_Place, Any]:
    """Give the key or index that cattrs noted on an error, and the type that was expected."""
    for note in getattr(cause, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,), note.type
        if isinstance(note, IterableValidationNote):
            return (note.index,), note.type
    return (), None


def _bare(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]{1,60}", key) else _quote(key)


def _join(place: _Place) -> str:
    """Write a path of keys and indices as people read it: mqtt.subscriptions[1].topic."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{_bare(step)}" for step in place)
    return "".join(steps).removeprefix(".")


# ---------------------------------------------------------------- reading


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError with every problem in it."""
    text = _read(path)
    if isinstance(text, Problem):
        raise ConfigError([text])
    return parse(text, name=str(path))


def parse(text: str, *, name: str) -> Config:
    """Read a configuration from a text; `name` stands for the file in messages.

    Raises ConfigError with every problem in it.
    """
    table = _toml(text, name)
    if isinstance(table, Problem):
        raise ConfigError([table])
    result = _config(table, name)
    if isinstance(result, Config):
        return result
    raise ConfigError(result)


# The three below give problems back instead of raising them, because an exception raised while
# another is handled keeps that one, and with it the text of the file, in its context.


def _config(table: dict[str, Any], name: str) -> Config | list[Problem]:
    try:
        return _converter().structure(table, Config)
    except BaseValidationError as error:
        return [
            Problem(
                file=name,
                key=_join(place),
                found=misfit.found,
                expected=misfit.expected,
                hint=misfit.hint,
            )
            for place, misfit in _misfits(error, ())
        ]


def _read(path: Path) -> str | Problem:
    try:
        with path.open("rb") as file:
            raw = file.read(_TEXT_MAX + 4)  # room to see that it is too long, with a mark
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        found, hint = "text that is not UTF-8", "save it anew as UTF-8"
    except OSError as error:
        found, hint = _unreadable(error)
    return Problem(
        file=str(path), key="", found=found, expected="a readable configuration file", hint=hint
    )


def _unreadable(error: OSError) -> tuple[str, str]:
    """Give what was found and what to do about it."""
    match error:
        case FileNotFoundError():
            return "no such file", "write one, or name another with --config"
        case PermissionError():
            return "no permission to read it", "run the command as root or as the service's user"
        case IsADirectoryError():
            return "a folder", "name a file in it with --config"
        case _:
            return f"the error {error.strerror!r}", "check the path and the disk"


def _toml(text: str, name: str) -> dict[str, Any] | Problem:
    flaw = _unfit(text)
    if not flaw:
        try:
            return tomllib.loads(text.removeprefix("﻿"))
        except tomllib.TOMLDecodeError as error:
            return _syntax_problem(str(error), name)
        except RecursionError:
            flaw = "values nested too deep"
        except ValueError:  # an integer of thousands of digits
            flaw = "a number of too many digits"
    return Problem(file=name, key="", found=flaw, expected="a TOML text of 1 MiB at most")


def _unfit(text: str) -> str:
    """Say what keeps a text from being read at all, or ""."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "text that is not Unicode"
    return f"more than {format_size(_TEXT_MAX)}" if size > _TEXT_MAX else ""


_POSITION: Final = re.compile(
    r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL
)
_SYNTAX: Final[Mapping[str, tuple[str, str]]] = {
    "Invalid value": ("a value that is not TOML", "put a text into quotation marks"),
    "Cannot overwrite": ("a key for the second time", "remove one of the two"),
    "Cannot declare": ("a table for the second time", "join the two"),
}


def _syntax_problem(message: str, name: str) -> Problem:
    """Use the parser's words, which repeat one character of the file at most."""
    match = _POSITION.fullmatch(message)
    what, line, column = match.groups() if match else (message, None, None)
    place = f"line {line} column {column}" if line else "end of the file"
    for start, (found, hint) in _SYNTAX.items():
        if what.startswith(start):
            return Problem(file=name, key=place, found=found, expected="valid TOML", hint=hint)
    if what.startswith("Expected "):
        wanted = what.removeprefix("Expected ")
        return Problem(file=name, key=place, found="something else", expected=wanted)
    found = what.removeprefix("Found ")
    return Problem(file=name, key=place, found=found[:1].lower() + found[1:], expected="valid TOML")
