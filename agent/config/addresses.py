"""Readers of addresses: hosts, URLs, what to listen on, MQTT topics."""

import ipaddress
import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agent.config.problems import MisfitError, describe, quote
from agent.config.readers import HIDDEN, Reader, kind_of_text, text
from agent.topic import TopicError, TopicFilter

PORT_MAX: Final = 65_535
_UNIX_PATH_MAX: Final = 107  # bytes that fit into sockaddr_un.sun_path beside its end
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9_.-]+(?::[0-9]{1,5})?")
_LISTEN: Final = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, without asking DNS."""
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_host(text: str) -> bool:
    return _is_ip(text) or _HOST.fullmatch(text) is not None


def host() -> Reader:
    """Read a host name or address; kept in lower case."""

    def read(value: object) -> object:
        if not isinstance(value, str) or not _is_host(value):
            raise MisfitError(describe(value))
        return value.lower()

    return Reader("a host name or an IP address, without scheme and port", read)


def origin() -> Reader:
    """Read the origin of a web page, as browsers send it."""
    return text(
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


def endpoint() -> Reader:
    """Read where events are sent; kept as scheme and host in lower case."""

    def read(value: object) -> object:
        text = value if isinstance(value, str) else ""
        parts = _split_url(text)
        if parts is None or not _is_safe(parts):
            hint = "leave the path out: the agent adds it" if "/mp/" in text else ""
            raise MisfitError(describe(value), hint=hint)
        return f"{parts.scheme}://{parts.netloc.lower()}"

    return Reader(
        "an https URL of host and perhaps port, or an http URL of this machine itself", read
    )


def _is_safe(endpoint: SplitResult) -> bool:
    """No user in it, and either encrypted or never on a wire."""
    encrypted = endpoint.scheme == "https" or is_loopback(endpoint.hostname or "")
    return "@" not in endpoint.netloc and encrypted


def proxy() -> Reader:
    """Read the URL of a proxy, which may hold a password."""
    return text(
        expected="a proxy URL such as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT",
        # Not https: requests would verify the proxy with the certificates meant for GA4.
        fits=lambda text: text.startswith("http://") and _split_url(text) is not None,
        show=kind_of_text,
        write=_without_user,
    )


def _without_user(url: str) -> str:
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{HIDDEN if user else ''}{at}{host}"


def split_listen(text: str) -> tuple[str, int] | None:
    """Host and port of ``127.0.0.1:8787`` or ``[::1]:8787``; None for anything else."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > PORT_MAX:
        return None
    host = match[1] or match[2]
    # Brackets belong to IPv6 and only there.
    if match[2] == "localhost" or (_is_ip(host) and (":" in host) == (match[1] is not None)):
        return host, int(match[3])
    return None


def split_unix(text: str) -> Path | None:
    """Path of ``unix:/PATH``; None for anything else."""
    path = text.removeprefix("unix:")
    fits = path.startswith("/") and "\0" not in path and len(path.encode()) <= _UNIX_PATH_MAX
    return Path(path) if fits and path != text else None


def listen() -> Reader:
    """Read where HTTP listens."""
    return text(
        expected='"IP:PORT", "[IPv6]:PORT" or "unix:/PATH" (107 bytes of path at most)',
        fits=lambda text: bool(split_listen(text) or split_unix(text)),
    )


def topic() -> Reader:
    """Read an MQTT topic filter, whose wildcards may have names."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            raise MisfitError(describe(value))
        try:
            TopicFilter.read(value)
        except TopicError as error:
            raise MisfitError(quote(value), expected=str(error)) from None
        return value

    return Reader("an MQTT topic or a filter such as kiosk/+/events", read)
