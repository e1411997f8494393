"""HTTP in: a WSGI application that asks the door, on a waitress that is kept honest.

waitress by itself never drops a client that drips, and turns a handler's error into a 500
that nobody hears of. Both are handled here: a request has a total deadline, and an error
that is no answer ends the process.
"""

import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import BadRequest

from agent.event import InvalidEvent
from agent.intake.door import Accepted, Door, Full, Refused
from agent.intake.message import Message
from agent.intake.parse import Shape
from agent.intake.source import SourceUnavailable
from agent.progress import Progress
from agent.secret import Secret

log = logging.getLogger(__name__)

RETRY_AFTER = "30"  # seconds: what a full queue asks of its publishers
HEADERS_MAX = 16 * 1024
CONNECTIONS_MAX = 100
SWEEP = 1  # seconds between looks for clients that are too slow
PREFLIGHT_MAX_AGE = "600"  # seconds: a page may go on so long when its origin is struck off
SHOWN = 100  # characters of a header that a message repeats

UNFIT = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)  # of a POST: somebody's events went to the wrong place

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client is told."""

    status: HTTPStatus
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def _json(status: HTTPStatus, value: object) -> Reply:
    body = json.dumps(value, ensure_ascii=False).encode()
    return Reply(status, body, (("Content-Type", "application/json; charset=utf-8"),))


def _text(status: HTTPStatus, text: str) -> Reply:
    return Reply(status, text.encode() + b"\n", (("Content-Type", "text/plain; charset=utf-8"),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Who may speak to the agent: the rules against foreign pages and DNS rebinding.

    ``hosts`` and ``origins`` come on top of loopback and of no Origin at all. ``check_host`` is
    off on a unix socket, which no browser reaches.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    token: Secret | None = field(default=None, repr=False)
    check_host: bool = True

    def refusal(self, environ: Environ) -> tuple[HTTPStatus, str] | None:
        """Why the request may not pass; None if it may."""
        if self.check_host and not self._known_host(environ.get("HTTP_HOST", "")):
            name = _host_name(environ.get("HTTP_HOST", ""))
            return HTTPStatus.FORBIDDEN, _foreign("Host", name, "hosts")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin not in self.origins:
            return HTTPStatus.FORBIDDEN, _foreign("Origin", origin, "origins")
        if self.token is not None and not (_is_preflight(environ) or self._authorised(environ)):
            return (
                HTTPStatus.UNAUTHORIZED,
                "cannot take this: expected the header Authorization: Bearer TOKEN",
            )
        return None

    def page(self, environ: Environ) -> str | None:
        """The origin of the configured page that asks; None for programs and other pages."""
        origin = environ.get("HTTP_ORIGIN")
        return origin if origin in self.origins else None

    def _known_host(self, header: str) -> bool:
        name = _host_name(header)
        if name == "localhost" or name in self.hosts:
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _authorised(self, environ: Environ) -> bool:
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
        expected = f"Bearer {self.token.reveal()}".encode() if self.token else b""
        return hmac.compare_digest(given, expected)


def _foreign(header: str, found: str, key: str) -> str:
    """Which page or name it was, so that whoever set it up can name it. Both hold no path."""
    shown = json.dumps(found[:SHOWN])
    return (
        f"cannot take this: found the {header} {shown}, not allowed here; name it in [http] {key}"
    )


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def _is_preflight(environ: Environ) -> bool:
    """Whether a browser asks what a page may send; it cannot be made to send the token along."""
    asks = {"HTTP_ORIGIN", "HTTP_ACCESS_CONTROL_REQUEST_METHOD"}
    return environ["REQUEST_METHOD"] == "OPTIONS" and asks <= environ.keys()


def _preflight(methods: Iterable[str], environ: Environ) -> Reply:
    headers = [
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Allow-Headers", "Authorization, Content-Type"),
        ("Access-Control-Max-Age", PREFLIGHT_MAX_AGE),
    ]
    # Some Chromium asks this before a page from the network may speak to loopback.
    if "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK" in environ:
        headers.append(("Access-Control-Allow-Private-Network", "true"))
    return Reply(HTTPStatus.NO_CONTENT, headers=tuple(headers))


def _for_page(origin: str | None) -> list[tuple[str, str]]:
    """What a browser must find in an answer before a page of this origin may read it."""
    if origin is None:
        return []
    return [
        ("Access-Control-Allow-Origin", origin),
        # sendBeacon asks with credentials, although there are none here.
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "Retry-After"),
        ("Vary", "Origin"),
    ]


class Application:
    """The WSGI application: a route is a method and a path."""

    def __init__(
        self,
        *,
        door: Callable[[], Door],
        guard: Guard,
        streams: Callable[[], Mapping[str, str]],
        status: Callable[[], Mapping[str, Any]],
        on_bug: Callable[[BaseException], None],
        debug: Callable[[str | None, bytes], Mapping[str, Any]],
        on_turned_away: Callable[[str, str], None] = lambda _reason, _why: None,
        local: bool = True,
    ) -> None:
        """Take the parts.

        ``streams``: GA4 ids (measurement or app id) to names of streams, now. ``debug``: what GA4
        would say of a body for a stream. ``on_turned_away`` hears of what the door never saw, or
        cannot take now: the ledger's reason, and why, for people. ``local``: only programs on this
        device can ask.
        """
        self._door = door
        self._guard = guard
        self._streams = streams
        self._status = status
        self._on_bug = on_bug
        self._debug = debug
        self._on_turned_away = on_turned_away
        self._local = local
        self._routes: dict[str, dict[str, Callable[[Environ], Reply]]] = {
            "/mp/collect": {"POST": self._collect},
            "/debug/mp/collect": {"POST": self._debug_collect},
            "/events": {"POST": self._events},
            "/healthz": {"GET": self._healthz},
            "/status": {"GET": self._get_status},
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            reply = self._reply(environ)
        except BaseException as bug:
            self._on_bug(bug)
            raise
        headers = [*reply.headers, *_for_page(self._guard.page(environ))]
        if reply.status is not HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(reply.body))))
        start_response(f"{reply.status.value} {reply.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]

    def refuse(self, reason: str, why: str) -> None:
        """Count and tell what the server refused before it came here."""
        self._door().refuse(reason)
        self._on_turned_away(reason, why)

    def _reply(self, environ: Environ) -> Reply:
        if refusal := self._guard.refusal(environ):
            self.refuse("forbidden", refusal[1])
            return _text(*refusal)
        reply = self._routed(environ)
        if environ["REQUEST_METHOD"] == "POST" and reply.status in UNFIT:
            self.refuse("unfit", reply.body.decode().strip())
        return reply

    def _routed(self, environ: Environ) -> Reply:
        methods = self._routes.get(environ["PATH_INFO"])
        if methods is None:
            return _text(
                HTTPStatus.NOT_FOUND, "cannot find this: expected " + ", ".join(self._routes)
            )
        if _is_preflight(environ):
            return _preflight(methods, environ)
        handler = methods.get(environ["REQUEST_METHOD"].replace("HEAD", "GET"))
        if handler is None:
            allowed = ", ".join(methods)
            reply = _text(HTTPStatus.METHOD_NOT_ALLOWED, f"cannot do this: expected {allowed}")
            return Reply(reply.status, reply.body, (*reply.headers, ("Allow", allowed)))
        if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
            return _text(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "cannot take this: expected no Content-Encoding"
            )
        return handler(environ)

    def _collect(self, environ: Environ) -> Reply:
        """Take the very body that GA4 takes: all of it or nothing."""
        stream = self._stream(environ)
        if isinstance(stream, InvalidEvent):
            return _refused(Refused((stream,)))
        match self._door().admit(self._message(environ, stream, Shape.BODY)):
            case Accepted():
                return Reply(HTTPStatus.NO_CONTENT)
            case Full(reason):
                return self._full(reason)
            case Refused() as refused:
                return _refused(refused)

    def _events(self, environ: Environ) -> Reply:
        """Take events singly and list what was refused."""
        stream = self._stream(environ)
        if isinstance(stream, InvalidEvent):
            return _refused(Refused((stream,)))
        match self._door().admit(self._message(environ, stream, Shape.ANY)):
            case Accepted(number, rejected):
                status = HTTPStatus.ACCEPTED
                return _json(status, {"accepted": number, "rejected": _messages(rejected)})
            case Full(reason):
                return self._full(reason)
            case Refused(reasons):
                status = HTTPStatus.BAD_REQUEST
                return _json(status, {"accepted": 0, "rejected": _messages(reasons)})

    def _debug_collect(self, environ: Environ) -> Reply:
        """Say what GA4 would say of this very body. Nothing is queued."""
        stream = self._stream(environ)
        if isinstance(stream, InvalidEvent):
            return _refused(Refused((stream,)))
        return _json(HTTPStatus.OK, self._debug(stream, _body(environ)))

    def _message(self, environ: Environ, stream: str | None, shape: Shape) -> Message:
        return Message(
            source="http",
            payload=_body(environ),
            shape=shape,
            stream=stream,
            local=self._local,
            cookies=environ.get("HTTP_COOKIE", ""),
        )

    def _stream(self, environ: Environ) -> str | InvalidEvent | None:
        """The stream that the query picks. An api_secret in it is ignored and never kept."""
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        for name in ("measurement_id", "firebase_app_id"):
            if name in query:
                stream = self._streams().get(query[name][0])
                return self._unknown(name) if stream is None else stream
        return None

    def _unknown(self, name: str) -> InvalidEvent:
        error = InvalidEvent(name, f"found an unknown {name}, expected one of agent.toml")
        self.refuse("unknown_stream", str(error))
        return error

    def _full(self, reason: str) -> Reply:
        """The door has counted it, and told nobody."""
        self._on_turned_away("full", reason)
        reply = _text(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        return Reply(reply.status, reply.body, (*reply.headers, ("Retry-After", RETRY_AFTER)))

    def _healthz(self, _environ: Environ) -> Reply:
        state = str(self._status()["state"])
        ill = state in ("disk_full", "read_only")
        return _text(HTTPStatus.SERVICE_UNAVAILABLE if ill else HTTPStatus.OK, state)

    def _get_status(self, _environ: Environ) -> Reply:
        return _json(HTTPStatus.OK, self._status())


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read()
    return body


def _messages(errors: Iterable[InvalidEvent]) -> list[dict[str, str]]:
    return [
        {"fieldPath": e.field_path, "description": e.description, "validationCode": e.code}
        for e in errors
    ]


def _refused(refused: Refused) -> Reply:
    return _json(HTTPStatus.BAD_REQUEST, {"validationMessages": _messages(refused.reasons)})


class _CountedError(ErrorTask):  # type: ignore[misc]  # waitress has no types
    """An answer that waitress gives by itself: too large, malformed, not implemented."""

    def execute(self) -> None:
        self.channel.server.on_refused("unfit", _unread(self.request.error))
        super().execute()


def _unread(error: Any) -> str:
    """Why waitress read no further: its own text may repeat what was said."""
    large = error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    cure = "; send less at once, or raise max_body in [http]" if large else ""
    return f"cannot read this: {error.reason} ({error.code}){cure}"


class _Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection that knows since when its present request has been coming in."""

    error_task_class = _CountedError
    reading: object = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.reading_since = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything here: silent from the start, or kept open."""
        return self.reading is None and not self.requests and not self.total_outbufs_len

    def received(self, data: bytes) -> Any:
        try:
            taken = super().received(data)
        except ValueError:  # of its parser, for a URL such as http://[bad/
            taken = self._refuse_request()
        if self.request is not self.reading:
            self.reading, self.reading_since = self.request, time.monotonic()
        return taken

    def _refuse_request(self) -> bool:
        """Answer 400: waitress would close the connection without a word."""
        request = self.parser_class(self.adj)
        request.error, request.completed = BadRequest("malformed request line"), True
        with self.requests_lock:
            self.request = None
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)
        return True


class _Sweeping:
    """What both servers do each second: drop who drips, show that the loop lives."""

    channel_class = _Channel
    read_deadline: float
    on_refused: Callable[[str, str], None]
    progress: Progress
    next_sweep = 0.0

    def readable(self) -> Any:
        self.progress.beat()
        now = time.monotonic()
        if now >= self.next_sweep:
            self.next_sweep = now + SWEEP
            self._sweep(now)
        return super().readable()  # type: ignore[misc]  # a mixin of a waitress server

    def _sweep(self, now: float) -> None:
        channels: dict[int, _Channel] = self.active_channels  # type: ignore[attr-defined]  # likewise
        # Idle ones may stay, unless they keep others out: then they have as long as a request.
        full = self.in_connection_overflow  # type: ignore[attr-defined]  # likewise
        for channel in list(channels.values()):
            held = channel.reading is not None or (full and channel.idle)
            if held and now - channel.reading_since > self.read_deadline:
                channel.will_close = True


class _TcpServer(_Sweeping, TcpWSGIServer):  # type: ignore[misc]  # waitress has no types
    pass


class _UnixServer(_Sweeping, UnixWSGIServer):  # type: ignore[misc]  # waitress has no types
    pass


class HttpSource:
    """Serves the application until it is told to stop."""

    def __init__(
        self,
        *,
        application: Application,
        address: tuple[str, int] | None,
        unix_path: Path | None,
        threads: int,
        max_body: int,
        read_deadline: float,
    ) -> None:
        """Take either ``address`` (port 0: any) or ``unix_path``.

        ``read_deadline``: seconds in which a request must have come in, headers and body.
        """
        self._application = application
        self._address = address
        self._unix_path = unix_path
        self._threads = threads
        self._max_body = max_body
        self._read_deadline = read_deadline
        self.port: int | None = None
        self.problem: str | None = None

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Serve until ``stop``; then finish the requests that have come in.

        Raises SourceUnavailable when the address is taken.
        """
        sockets: dict[int, Any] = {}
        dispatcher = ThreadedTaskDispatcher()
        server = self._server(sockets, dispatcher, progress)
        dispatcher.set_thread_count(self._threads)
        self.port = None if self._unix_path else int(server.effective_port)
        try:
            while not stop.is_set():
                wasyncore.loop(timeout=0.5, use_poll=True, map=sockets, count=1)
            self._drain(server, sockets)
        finally:
            dispatcher.shutdown()
            wasyncore.close_all(sockets)

    def _server(
        self, sockets: dict[int, Any], dispatcher: ThreadedTaskDispatcher, progress: Progress
    ) -> Any:
        kind: Any = _UnixServer if self._unix_path else _TcpServer
        try:
            server = kind(
                self._application, sockets, dispatcher=dispatcher, adj=self._adjustments()
            )
        except OSError as error:
            wasyncore.close_all(sockets, ignore_all=True)
            raise SourceUnavailable(
                f"cannot listen on {self._place()}: {error.strerror}"
            ) from error
        server.progress, server.read_deadline = progress, self._read_deadline
        server.on_refused = self._application.refuse
        return server

    def _adjustments(self) -> Adjustments:
        options: dict[str, Any] = {
            "connection_limit": CONNECTIONS_MAX,
            "channel_timeout": 120,
            "clear_untrusted_proxy_headers": True,
            "ident": None,
            "log_socket_errors": False,  # a client that went away is no news
            "max_request_body_size": self._max_body,
            "max_request_header_size": HEADERS_MAX,
        }
        if self._unix_path:
            return Adjustments(unix_socket=str(self._unix_path), unix_socket_perms="660", **options)
        host, port = self._address or ("127.0.0.1", 0)
        return Adjustments(host=host, port=port, **options)

    def _drain(self, server: Any, sockets: dict[int, Any]) -> None:
        """Take no new connection, but answer what has come in: its events may be committed."""
        server.accepting = False
        until = time.monotonic() + self._read_deadline
        while time.monotonic() < until and any(
            channel.reading is not None or channel.requests or channel.total_outbufs_len
            for channel in list(server.active_channels.values())
        ):
            wasyncore.loop(timeout=0.1, use_poll=True, map=sockets, count=1)

    def _place(self) -> str:
        if self._unix_path:
            return str(self._unix_path)
        return "{}:{}".format(*(self._address or ("", 0)))
