"""MicroPython's HTTP client API (``urequests``, now ``requests``) on top of the requests library.

What runs on a microcontroller runs here: ``request(method, url, data, json, headers, stream, auth,
timeout, parse_headers)``, ``head get post put patch delete``, and a ``Response`` with ``raw``,
``encoding``, ``status_code``, ``reason`` (bytes), ``headers`` (a plain dict), ``content``,
``text``, ``json()`` and ``close()``. Trouble is ``OSError`` with an errno; an unknown argument is
``TypeError``; another scheme is ``ValueError("Unsupported protocol: …")``.

Intended differences:

1. Certificates are always verified, against the system's store, else certifi's; ``ca_file``
   replaces both.
2. Redirects of GET and HEAD are followed, five at most, and never from https to http, so that an
   answer to an https URL is a verified one. For every other method, and whenever there is a
   request body, the 3xx is the answer: a login page must not turn a POST into a GET that answers
   200.
3. ``timeout`` is a total deadline in seconds from the call to the last byte of the body. It closes
   the socket, however slowly the server drips.
4. The environment is not trusted: no proxy variables, no ``.netrc``, no ``REQUESTS_CA_BUNDLE``.
   Cookies are neither kept nor sent. A ``proxy`` is never asked for plain http to loopback.
5. Connections are kept alive. An idle one that the server closed is replaced before it is used;
   nothing that may have been processed is ever sent again.
6. ``Response`` works with ``with`` on every version.
7. A body beyond ``max_body`` bytes (1 MiB) is refused: ``OSError(EMSGSIZE)``.
8. Answers are read as HTTP/1.1 has them: chunked, after a 1xx, with several lines of one header.
   One that is cut off, or is not HTTP, is an ``OSError`` and never a short body.
9. What MicroPython would send but no server understands is put right, or refused before it is sent:
   lengths in bytes, URLs percent-encoded, JSON without NaN, headers in one line.

``tests/urequests`` runs one program under both and lists every difference with its reason.

Bodies are asked for and handed out as they are (``Accept-Encoding: identity``, no decompression),
so there are no gzip bombs. ``stream`` changes nothing, as in MicroPython: bodies are read on demand.

Every network error is a ``RequestError``: its class says what failed and ``maybe_sent`` whether
the server may have processed the request. No message, cause or context holds the URL, because its
query holds the api_secret.
"""

import errno
import http.client
import logging
import os
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from io import BufferedReader, RawIOBase
from json import dumps, loads
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import certifi
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import SKIP_HEADER

__all__ = [
    "BrokenError",
    "Client",
    "ConnectError",
    "DeadlineError",
    "DnsError",
    "ProxyError",
    "RequestError",
    "Response",
    "TlsError",
    "delete",
    "get",
    "head",
    "patch",
    "post",
    "put",
    "request",
]

SYSTEM_STORE = "/etc/ssl/certs/ca-certificates.crt"  # Debian's; the operator's own CAs are in it
MAX_REDIRECTS = 5
_BAD_URL = "cannot use the URL: found a malformed one, expected http(s)://host[:port]/path"
_CLOSED = "cannot read the body: found a closed response, expected an open one"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_YET_VALID = 9  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, which the ssl module does not name

Data = str | bytes | bytearray | memoryview | Iterable[bytes]
ParseHeaders = bool | Callable[[bytes, dict[str, str]], object]
Resolve = Callable[..., list[Any]]


# Never through a proxy: it would carry what should not leave this machine, and answer for it.
LOOPBACK = ("http://localhost", "http://127.", "http://[::1]")


class RequestError(OSError):
    """The request failed; ``maybe_sent`` tells whether the server may have processed it."""

    def __init__(self, number: int, message: str, *, maybe_sent: bool = False) -> None:
        super().__init__(number, message)
        self.maybe_sent = maybe_sent


class DnsError(RequestError):
    """The host's name has no address, or the name server did not answer in time."""


class ConnectError(RequestError):
    """No address of the host took the connection."""


class TlsError(RequestError):
    """No trusted connection: ``reason`` says why, ``not_yet_valid`` hints at a wrong clock."""

    def __init__(self, number: int, message: str, *, reason: str, not_yet_valid: bool) -> None:
        super().__init__(number, message)
        self.reason = reason
        self.not_yet_valid = not_yet_valid


class DeadlineError(RequestError, TimeoutError):
    """The request was not over within its total deadline; errno is ETIMEDOUT."""


class BrokenError(RequestError):
    """The connection broke, or the answer was not HTTP, after the request began to be sent."""


class ProxyError(RequestError):
    """The proxy could not be reached or did not let the request through."""


class _Stage(Enum):
    """How far a request has come; the class of its error follows from it."""

    DIAL = "dial"
    TUNNEL = "tunnel"
    HANDSHAKE = "handshake"
    SENT = "sent"


class _Deadline:
    """A moment of the monotonic clock, ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, more than 0; TimeoutError if there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the total deadline has passed")
        return left


class _Exchange:
    """One request under way: its deadline, its stage, and what went wrong last."""

    def __init__(self, *, seconds: float) -> None:
        self.deadline = _Deadline(seconds)
        self.maybe_sent = False
        self.begin("")

    def begin(self, url: str) -> None:
        """Start on ``url``: the first one, or where a redirect leads."""
        self.host = urlsplit(url).hostname
        self.stage = _Stage.DIAL
        self.failure: RequestError | None = None
        self.cause: Exception | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Remember the bare error, before urllib3 and requests wrap it with the URL."""
        try:
            yield
        except Exception as error:
            self.cause = error
            raise

    def sending(self) -> None:
        self.stage = _Stage.SENT
        self.maybe_sent = True

    def error(self) -> RequestError | ValueError:
        """Return the error for the caller, by how far the request came."""
        if self.failure is not None:
            return self.failure
        if self.cause is None:
            return ValueError(_BAD_URL)
        error = self._classified(self.cause)
        # the text of a cause without errno may be the server's, which may echo the URL
        if isinstance(self.cause, OSError) and self.cause.errno is not None:
            error.__cause__ = self.cause
        return error

    def _classified(self, cause: Exception) -> RequestError:
        if isinstance(cause, TimeoutError):
            return self.late()
        if self.stage is _Stage.TUNNEL:
            return self._refused_by_proxy(cause)
        if self.stage is _Stage.HANDSHAKE:
            return self._untrusted(cause)
        return self._broken(cause)

    def late(self) -> DeadlineError:
        limit = f"no complete answer within {self.deadline.seconds:g} s"
        message = f"cannot finish the request to {self.host}: {limit}; check the network"
        return DeadlineError(errno.ETIMEDOUT, message, maybe_sent=self.maybe_sent)

    def too_big(self, limit: int) -> RequestError:
        message = f"cannot read the answer of {self.host}: found more than {limit} bytes"
        return RequestError(errno.EMSGSIZE, message, maybe_sent=True)

    def lost(self) -> RequestError:
        message = f"cannot reach the page on {self.host}: found more than {MAX_REDIRECTS} redirects"
        return RequestError(errno.ELOOP, message, maybe_sent=True)

    def _broken(self, cause: Exception) -> BrokenError:
        cut = isinstance(cause, (OSError, IncompleteRead))
        number = _number(cause, errno.ECONNRESET if cut else errno.EPROTO)
        found = "the connection was cut" if cut else "the answer is not HTTP"
        message = f"cannot read the answer of {self.host}: {found}; check the network"
        return BrokenError(number, message, maybe_sent=True)

    def _untrusted(self, cause: Exception) -> TlsError:
        not_yet_valid = getattr(cause, "verify_code", None) == _NOT_YET_VALID
        reason = _tls_reason(cause)
        cure = "set the clock" if not_yet_valid else "check the clock, the network and ca_file"
        message = f"cannot trust {self.host}: {reason}; {cure}"
        number = _number(cause, errno.EPROTO)
        return TlsError(number, message, reason=reason, not_yet_valid=not_yet_valid)

    def _refused_by_proxy(self, cause: Exception) -> ProxyError:
        status = re.search(r"failed: (\d{3})", str(cause))
        found = f"answer {status[1]}" if status else "a cut connection"
        message = f"cannot reach {self.host} through the proxy: found {found}, expected a tunnel"
        return ProxyError(_number(cause, errno.ECONNREFUSED), message)


def _number(cause: Exception, default: int) -> int:
    """Return the errno of ``cause``; OpenSSL's own numbers in SSLError.errno are none."""
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError):
        return cause.errno or default
    return default


def _tls_reason(cause: Exception) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message.rstrip(".")
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return cause.reason.lower().replace("_", " ")
    return "the connection was cut during the handshake"


class _Socket(socket.socket):
    """A socket on which no single read or write outlasts the deadline of its request."""

    deadline: _Deadline | None = None

    def _arm(self) -> None:
        if self.deadline is not None:
            self.settimeout(self.deadline.remaining())

    def recv_into(self, *args: Any) -> int:
        self._arm()
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        self._arm()
        super().sendall(*args)


class _TlsSocket(ssl.SSLSocket):
    """The same for TLS, whose sendall is a loop of send."""

    deadline: _Deadline | None = None

    def _arm(self) -> None:
        if self.deadline is not None:
            self.settimeout(self.deadline.remaining())

    def recv_into(self, *args: Any) -> int:
        self._arm()
        return super().recv_into(*args)

    def send(self, *args: Any) -> int:
        self._arm()
        return super().send(*args)


class _Lookup(threading.Thread):
    """One name resolution, which the system may hold up for minutes."""

    def __init__(self, *, resolve: Resolve, host: str, port: int) -> None:
        super().__init__(name="dns", daemon=True)
        self._ask = partial(resolve, host, port, 0, socket.SOCK_STREAM)
        self.addresses: list[Any] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.addresses = self._ask()
        except Exception as error:
            self.error = error  # raised again in the thread that waits


class _Wire:
    """Finds addresses and connects, for the one exchange that is under way."""

    exchange: _Exchange

    def __init__(self, *, resolve: Resolve, connect_timeout: float, dns_timeout: float) -> None:
        self._resolve = resolve
        self._connect_timeout = connect_timeout
        self._dns_timeout = dns_timeout
        self._pending: dict[tuple[str, int], _Lookup] = {}

    def dial(self, host: str, port: int, options: Iterable[tuple[Any, ...]]) -> _Socket:
        """Return a socket connected to the first address that answers; RequestError if none."""
        try:
            addresses = self._addresses(host, port)
            return self._first(host, port, addresses, tuple(options))
        except TimeoutError:
            raise self.exchange.late() from None

    def _addresses(self, host: str, port: int) -> list[Any]:
        lookup = self._look_up(host, port)
        lookup.join(min(self._dns_timeout, self.exchange.deadline.remaining()))
        if lookup.is_alive():
            self.exchange.deadline.remaining()  # the deadline's fault, or the name server's?
            raise _no_address(host, socket.EAI_AGAIN, f"no answer within {self._dns_timeout:g} s")
        del self._pending[host, port]
        if isinstance(lookup.error, (OSError, UnicodeError)):
            number = getattr(lookup.error, "errno", None) or socket.EAI_NONAME
            raise _no_address(
                host, number, "an unknown name or a silent name server"
            ) from lookup.error
        if lookup.error is not None:
            raise lookup.error
        return lookup.addresses

    def _look_up(self, host: str, port: int) -> _Lookup:
        """Return the lookup that still hangs, else a new one, so that threads cannot pile up."""
        lookup = self._pending.get((host, port))
        if lookup is None or not lookup.is_alive():
            lookup = _Lookup(resolve=self._resolve, host=host, port=port)
            self._pending[host, port] = lookup
            lookup.start()
        return lookup

    def _first(
        self, host: str, port: int, addresses: list[Any], options: tuple[tuple[Any, ...], ...]
    ) -> _Socket:
        problem: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            sock = _Socket(family, kind, protocol)
            try:
                return self._connected(sock, address, options)
            except OSError as error:
                sock.close()
                problem = error
        self.exchange.deadline.remaining()  # passed: that, not the last address, is the reason
        if problem is None:
            raise _no_address(host, socket.EAI_NONAME, "a name without addresses")
        raise _no_connection(host, port, problem) from problem

    def _connected(
        self, sock: _Socket, address: Any, options: tuple[tuple[Any, ...], ...]
    ) -> _Socket:
        deadline = self.exchange.deadline
        for option in options:
            sock.setsockopt(*option)
        sock.settimeout(min(self._connect_timeout, deadline.remaining()))
        sock.connect(address)
        sock.settimeout(deadline.remaining())  # a TLS handshake takes it over as its own bound
        sock.deadline = deadline
        return sock


def _no_address(host: str, number: int, found: str) -> DnsError:
    message = f"cannot find the address of {host}: found {found}; check the network and its DNS"
    return DnsError(number, message)


def _no_connection(host: str, port: int, problem: OSError) -> ConnectError:
    default = errno.ETIMEDOUT if isinstance(problem, TimeoutError) else errno.ECONNREFUSED
    number = problem.errno or default
    found = os.strerror(number).lower()
    message = f"cannot connect to {host} port {port}: found {found}; check network and firewall"
    return ConnectError(number, message)


class _Head:
    """The lines of an answer's head; http.client would take their end for the head's."""

    def __init__(self, lines: BufferedReader) -> None:
        self._lines = lines

    def readline(self, limit: int = -1) -> bytes:
        line = self._lines.readline(limit)
        if not line:
            raise ConnectionResetError(errno.ECONNRESET, "the answer ends in its head")
        return line

    def close(self) -> None:
        self._lines.close()


class _Answer(http.client.HTTPResponse):
    """An answer that is broken, not empty and fine, if it was cut after its first line."""

    def begin(self) -> None:
        lines: Any = self.fp
        head: Any = _Head(lines)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:  # http.client drops it from a broken answer
                self.fp = lines


class _Connection(HTTPConnection):
    """A connection that the wire dials, that reports its stage and obeys the deadline."""

    response_class = _Answer

    def __init__(self, *args: Any, wire: _Wire, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire = wire

    def _new_conn(self) -> socket.socket:
        exchange = self._wire.exchange
        host, port = self._dns_host.strip("[]"), int(self.port or self.default_port)
        try:
            sock = self._wire.dial(host, port, self.socket_options or ())
        except RequestError as failure:
            exchange.failure = self._blamed(failure)
        else:
            exchange.stage = _Stage.HANDSHAKE
            return sock
        # urllib3 takes an ECONNRESET raised here for a cut answer and reads on; not this one
        raise NewConnectionError(self, "not connected")

    def _blamed(self, failure: RequestError) -> RequestError:
        """Return a ProxyError if it is the proxy that could not be reached."""
        if self.proxy is None or isinstance(failure, DeadlineError):
            return failure
        number = failure.errno or errno.ECONNREFUSED
        blame = ProxyError(number, f"cannot use the proxy: {failure.strerror}")
        blame.__cause__ = failure.__cause__
        return blame

    def connect(self) -> None:
        with self._wire.exchange.watch():
            super().connect()

    def _tunnel(self) -> None:
        exchange = self._wire.exchange
        exchange.stage = _Stage.TUNNEL
        super()._tunnel()
        self.sock.settimeout(exchange.deadline.remaining())  # for the handshake, as in the wire
        exchange.stage = _Stage.HANDSHAKE

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = self._wire.exchange
        if isinstance(self.sock, (_Socket, _TlsSocket)):
            self.sock.deadline = exchange.deadline
        with exchange.watch():
            super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if self._wire.exchange.stage is not _Stage.TUNNEL:
            self._wire.exchange.sending()
        super().send(data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 does
        with self._wire.exchange.watch():
            return super().getresponse()


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


def _pool(
    pool_class: type[HTTPConnectionPool],
    connection_class: type[_Connection],
    wire: _Wire,
    host: str,
    port: int,
    **settings: Any,
) -> HTTPConnectionPool:
    pool = pool_class(host, port, **settings)
    pool.ConnectionCls = partial(connection_class, wire=wire)  # type: ignore[assignment] # only called
    return pool


class _Adapter(HTTPAdapter):
    """Leads requests to our own connections, with one TLS context for all of them."""

    def __init__(self, *, wire: _Wire, tls: ssl.SSLContext, proxy: str | None) -> None:
        self._wire = wire
        self._tls = tls
        self._proxy = proxy
        super().__init__(max_retries=0)  # a second attempt could be a second delivery

    def init_poolmanager(self, *_args: Any, **_kwargs: Any) -> None:
        # one connection a host: a Client belongs to one thread
        settings: dict[str, Any] = {"maxsize": 1, "ssl_context": self._tls}
        if self._proxy is None:
            manager = PoolManager(**settings)
        else:
            headers = self.proxy_headers(self._proxy)
            manager = ProxyManager(self._proxy, proxy_headers=headers, **settings)
        pools: dict[str, Any] = {
            "http": partial(_pool, HTTPConnectionPool, _Connection, self._wire),
            "https": partial(_pool, HTTPSConnectionPool, _TlsConnection, self._wire),
        }
        manager.pool_classes_by_scheme = pools  # urllib3 only calls them
        self.poolmanager: PoolManager = manager

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *_args: Any, **_kwargs: Any
    ) -> HTTPConnectionPool:
        return self.poolmanager.connection_from_url(str(request.url))

    def request_url(
        self,
        request: requests.PreparedRequest,
        proxies: Mapping[str, str] | None,  # noqa: ARG002 # given by requests
    ) -> str:
        """Name the host in the request line only where a proxy reads it."""
        by_proxy = {"http": self._proxy} if self._proxy else {}
        return str(super().request_url(request, by_proxy))  # not theirs: a session has one list

    def cert_verify(self, *_args: Any, **_kwargs: Any) -> None:
        """Leave the pool alone: the TLS context verifies, and nothing can switch it off."""


class _Session(requests.Session):
    """A session that leaves redirects to the Client: requests reads their bodies without bound."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 # given by requests
        return None


class _Body(RawIOBase):
    """The body of an answer as a raw stream, bounded in time and size."""

    def __init__(self, *, answer: HTTPResponse, exchange: _Exchange, max_body: int) -> None:
        self._answer = answer
        self._exchange = exchange
        self._max_body = max_body
        self._left = max_body
        if answer.length_remaining == 0:
            answer.read()  # nothing to wait for: the connection is free for the next request

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(min(len(buffer), self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            self.close()
            raise self._exchange.too_big(self._max_body)
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        if self.closed:
            raise ValueError(_CLOSED)
        try:
            return self._answer.read(size, decode_content=False)
        except (HTTPError, HTTPException, OSError) as error:
            # urllib3 wraps the bare error, and names it as the cause
            self._exchange.cause = (
                error.__cause__ if isinstance(error.__cause__, Exception) else error
            )
        self.close()
        raise self._exchange.error()

    def close(self) -> None:
        if not self.closed:
            self._answer.close()
        super().close()


class Response:
    """An answer. Its body is read when asked for, and within the deadline of its request."""

    def __init__(
        self, *, raw: RawIOBase, status_code: int, reason: bytes, headers: dict[str, str] | None
    ) -> None:
        self.raw: RawIOBase | None = raw
        self.encoding = "utf-8"
        self.status_code = status_code
        self.reason = reason
        self.headers = headers
        self._content: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def content(self) -> bytes:
        """The body, read once and kept; OSError if it breaks off, is late or too long."""
        if self._content is None:
            if self.raw is None:
                raise ValueError(_CLOSED)
            try:
                self._content = self.raw.readall()
            finally:
                self.close()
        return self._content

    @property
    def text(self) -> str:
        """The body as text in ``encoding``."""
        return str(self.content, self.encoding)

    def json(self) -> Any:
        """Return the body parsed; ValueError if it is not JSON."""
        return loads(self.content)

    def close(self) -> None:
        """Let go of the connection; a body not read by now is lost."""
        if self.raw is not None:
            self.raw.close()
            self.raw = None


class Client:
    """Sends requests over kept-alive connections; one Client per thread.

    ``proxy`` is ``http://[user:password@]host:port``. ``ca_file`` (PEM) replaces the system's
    certificates. All times are seconds: ``connect_timeout`` for each address of a host,
    ``dns_timeout`` for finding them, ``deadline`` for a whole request that has no ``timeout``.
    ``max_body`` is in bytes. Without ``user_agent`` none is sent, as in MicroPython. ``resolve``
    is called like ``socket.getaddrinfo``. A bad ``proxy`` is ValueError, a bad ``ca_file`` OSError.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_file: str | None = None,
        connect_timeout: float = 3.0,
        dns_timeout: float = 5.0,
        deadline: float = 30.0,
        max_body: int = 1 << 20,
        user_agent: str | None = None,
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        # urllib3 logs URLs with their query: for malformed headers as a warning, else for debugging
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._deadline = deadline
        self._max_body = max_body
        self._wire = _Wire(
            resolve=resolve, connect_timeout=connect_timeout, dns_timeout=dns_timeout
        )
        tls, proxy = _tls(ca_file), _checked_proxy(proxy)
        adapter = _Adapter(wire=self._wire, tls=tls, proxy=proxy)
        direct = _Adapter(wire=self._wire, tls=tls, proxy=None)
        self._session = _session(adapter, direct, user_agent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections; responses still being read keep theirs."""
        self._session.close()

    def request(  # noqa: PLR0917 # MicroPython's signature, by position too
        self,
        method: str,
        url: str,
        data: Data | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        stream: Any = None,  # noqa: ARG002 # MicroPython takes it; bodies are always read on demand
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        parse_headers: ParseHeaders = True,
    ) -> Response:
        """Send one request and return its answer, whatever its status.

        ``data`` is sent as it is (an iterator in chunks; TypeError for a dict or a list), ``json``
        as JSON, ``auth`` as basic authentication; ``timeout`` replaces the Client's deadline.
        ``parse_headers`` can be a function of a header line and the dict to put it into.
        """
        _check_scheme(url)
        body, more = _encoded(data, json, auth)
        prepared = self._prepared(method, url, body, {**more, **(headers or {})})
        exchange = _Exchange(seconds=self._deadline if timeout is None else timeout)
        answer = self._followed(prepared, exchange)
        response = Response(
            raw=_Body(answer=answer.raw, exchange=exchange, max_body=self._max_body),
            status_code=answer.status_code,
            reason=(answer.reason or "").encode("latin-1"),
            headers=None,
        )
        try:
            response.headers = _headers(answer, parse_headers)
        except BaseException:  # of the caller's function, who never gets a response to close
            response.close()
            raise
        return response

    def head(self, url: str, **kw: Any) -> Response:
        """Send a HEAD request."""
        return self.request("HEAD", url, **kw)

    def get(self, url: str, **kw: Any) -> Response:
        """Send a GET request."""
        return self.request("GET", url, **kw)

    def post(self, url: str, **kw: Any) -> Response:
        """Send a POST request."""
        return self.request("POST", url, **kw)

    def put(self, url: str, **kw: Any) -> Response:
        """Send a PUT request."""
        return self.request("PUT", url, **kw)

    def patch(self, url: str, **kw: Any) -> Response:
        """Send a PATCH request."""
        return self.request("PATCH", url, **kw)

    def delete(self, url: str, **kw: Any) -> Response:
        """Send a DELETE request."""
        return self.request("DELETE", url, **kw)

    def _prepared(
        self, method: str, url: str, body: Data | None, headers: Mapping[str, str]
    ) -> requests.PreparedRequest:
        plain = requests.Request(method, url, data=body, headers=headers)
        try:
            return self._session.prepare_request(plain)
        except requests.exceptions.InvalidHeader:
            problem = (
                "cannot send the headers: found a bad name or value, expected text in one line"
            )
        except ValueError:  # requests quotes the URL in these
            problem = _BAD_URL
        raise ValueError(problem)

    def _followed(
        self, prepared: requests.PreparedRequest, exchange: _Exchange
    ) -> requests.Response:
        """Send, and follow redirects; the last answer is returned with its body unread."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._sent(prepared, exchange)
            onward = self._onward(prepared, answer)
            if onward is None:
                return answer
            answer.raw.close()
            prepared = onward
        raise exchange.lost()

    def _sent(self, prepared: requests.PreparedRequest, exchange: _Exchange) -> requests.Response:
        exchange.begin(str(prepared.url))
        self._wire.exchange = exchange
        try:
            return self._session.send(prepared, stream=True)
        except (HTTPError, HTTPException, OSError):
            pass  # the exchange holds the bare error; these quote the URL, so they end here
        raise exchange.error()

    def _onward(
        self, prepared: requests.PreparedRequest, answer: requests.Response
    ) -> requests.PreparedRequest | None:
        """Return the request that follows a redirect, or None if the answer stands."""
        if answer.status_code not in _REDIRECTS or "Location" not in answer.headers:
            return None
        if prepared.method not in {"GET", "HEAD"} or prepared.body is not None:
            return None
        onward = prepared.copy()
        location = _header_text(answer.headers["Location"])
        try:
            onward.prepare_url(urljoin(str(prepared.url), location), None)
        except ValueError:
            return None
        if not _may_follow(str(prepared.url), str(onward.url)):
            return None
        onward.headers.pop("Host", None)
        if urlsplit(prepared.url)[:2] != urlsplit(onward.url)[:2]:
            onward.headers.pop("Authorization", None)
        return onward


def _check_scheme(url: str) -> None:
    try:
        scheme = urlsplit(url).scheme  # nothing else of the URL may be shown
    except ValueError:
        scheme = None
    if scheme is None:
        raise ValueError(_BAD_URL)
    if scheme not in {"http", "https"}:
        raise ValueError(f"Unsupported protocol: {scheme}:")


def _encoded(
    data: Data | None, json: Any, auth: tuple[str, str] | None
) -> tuple[Data | None, dict[str, str]]:
    """Return the body to send and the headers that it and ``auth`` call for."""
    headers: dict[str, str] = {}
    if auth is not None:
        credentials = b64encode(":".join(auth).encode()).decode("ascii")
        headers["Authorization"] = f"Basic {credentials}"
    if json is None:
        return _sendable(data), headers
    if data is not None:
        raise TypeError("cannot send the body: found data and json, expected one of them")
    return dumps(json, allow_nan=False).encode(), headers | {"Content-Type": "application/json"}


def _sendable(data: Data | None) -> Data | None:
    """Return what requests sends as it is: it would make a form of a dict or of pairs."""
    if isinstance(data, str):
        return data.encode()
    if data is None or isinstance(data, (bytes, bytearray, memoryview)):
        return data
    if hasattr(data, "__len__") or not hasattr(data, "__iter__"):
        found = type(data).__name__
        raise TypeError(
            f"cannot send the body: found {found}, expected str, bytes or an iterator of bytes"
        )
    return data


def _headers(answer: requests.Response, parse: ParseHeaders) -> dict[str, str] | None:
    """Return the headers, by the caller's function if there is one; None if nobody wants them."""
    if parse is False:
        return None
    if parse is True:
        return {name: _header_text(value) for name, value in answer.headers.items()}
    headers: dict[str, str] = {}
    for name, value in answer.raw.headers.iteritems():
        parse(f"{name}: {value}\r\n".encode("latin-1"), headers)
    return headers


def _header_text(value: str) -> str:
    """Return a header as the UTF-8 that servers send; http.client reads Latin-1."""
    return value.encode("latin-1").decode("utf-8", "replace").strip(" \t")


def _may_follow(url: str, onward: str) -> bool:
    old, new = urlsplit(url).scheme, urlsplit(onward).scheme
    return new == "https" or (new == "http" and old == "http")


def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name against ``ca_file``."""
    store = SYSTEM_STORE if Path(SYSTEM_STORE).exists() else certifi.where()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it verifies, and takes TLS 1.2 and newer
    context.sslsocket_class = _TlsSocket
    try:
        context.load_verify_locations(cafile=ca_file or store)
    except OSError as error:
        number = _number(error, errno.EINVAL)
        message = "cannot read the certificates: expected a readable file of PEM certificates"
        raise OSError(number, message, ca_file or store) from error
    return context


def _checked_proxy(proxy: str | None) -> str | None:
    if proxy is None:
        return None
    parts = urlsplit(proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(
            f"cannot use the proxy: found {parts.scheme}://, expected http://host:port"
        )
    return proxy


def _session(adapter: _Adapter, direct: _Adapter, user_agent: str | None) -> _Session:
    session = _Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers = CaseInsensitiveDict(
        {"User-Agent": user_agent or SKIP_HEADER, "Accept-Encoding": "identity"}
    )
    session.adapters.clear()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    for here in LOOPBACK:
        session.mount(here, direct)
    return session


_default = threading.local()  # MicroPython's functions have no object to keep a connection in


def _client() -> Client:
    if not hasattr(_default, "client"):
        _default.client = Client()
    return _default.client  # type: ignore[no-any-return] # thread-local attributes have no types


def request(method: str, url: str, *args: Any, **kw: Any) -> Response:
    """Send one request with this thread's Client; see ``Client.request``."""
    return _client().request(method, url, *args, **kw)


def head(url: str, **kw: Any) -> Response:
    """Send a HEAD request."""
    return request("HEAD", url, **kw)


def get(url: str, **kw: Any) -> Response:
    """Send a GET request."""
    return request("GET", url, **kw)


def post(url: str, **kw: Any) -> Response:
    """Send a POST request."""
    return request("POST", url, **kw)


def put(url: str, **kw: Any) -> Response:
    """Send a PUT request."""
    return request("PUT", url, **kw)


def patch(url: str, **kw: Any) -> Response:
    """Send a PATCH request."""
    return request("PATCH", url, **kw)


def delete(url: str, **kw: Any) -> Response:
    """Send a DELETE request."""
    return request("DELETE", url, **kw)
