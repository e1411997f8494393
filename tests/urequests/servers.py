"""Servers on loopback that answer by the name in the path, and remember what they were asked."""

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn

PATIENCE = 20.0  # seconds: only a failing test waits so long
DRIP = 0.1  # seconds between two bytes; below the timeout of the script, its whole above
LOOK = 0.01  # seconds between looks whether to stop
LARGE = 1 << 20  # bytes: the most that our Response takes


def reply(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(status: int, location: str) -> bytes:
    return reply(b"moved", f"Location: {location}", status=f"{status} Moved")


def cut(text: bytes) -> bytes:
    """An answer after which the server hangs up."""
    return b"HTTP/1.1 200 OK\r\n" + text


STATUSES = (200, 201, 400, 403, 404, 429, 500, 503)
REDIRECTS = (301, 302, 303, 307, 308)

# By the name in the path; what is not here is answered 200 with "fine".
ANSWERS: dict[str, bytes] = {
    **{f"status-{status}": reply(b"x", status=f"{status} Such") for status in STATUSES},
    **{f"{m}-{s}": redirect(s, f"{{here}}/{m}-{s}/landed") for m in ("get", "post") for s in REDIRECTS},
    "put-302": redirect(302, "{here}/put-302/landed"),
    "head-302": redirect(302, "{here}/head-302/landed"),
    "get-with-body-302": redirect(302, "{here}/get-with-body-302/landed"),
    "redirect-without-location": reply(b"moved", status="302 Moved"),
    "redirect-relative": redirect(302, "/redirect-relative/landed"),
    "redirect-elsewhere": redirect(302, "{elsewhere}/redirect-elsewhere/landed"),
    "redirect-to-ftp": redirect(302, "ftp://127.0.0.1/x"),
    "status-204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "status-100-first": b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"after"),
    "status-300-with-location": redirect(300, "{here}/never"),
    "status-304-with-location": b"HTTP/1.1 304 Not Modified\r\nLocation: /never\r\n\r\n",
    "status-401-with-location": redirect(401, "{here}/never"),
    "reason-of-words": reply(status="200 All is  fine"),
    "reason-missing": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "answer-headers": reply(b"", "X-Odd: 1", "x-lower: a: b"),
    "answer-headers-twice": reply(b"", "X-Odd: 1", "X-Odd: 2"),
    "answer-headers-spaces": reply(b"", "X-Odd:   1\t ", "X-Tight:2", "X-Empty:"),
    "answer-headers-utf8": reply(b"", "X-Odd: gr\u00fcn"),
    "answer-headers-not-utf8": cut(b"X-Odd: gr\xfcn\r\nContent-Length: 0\r\n\r\n"),
    "answer-headers-case": reply(b"", "X-Odd: 1"),
    "parse-headers-own": reply(b"", "X-Odd: 1"),
    "text-utf8": reply("gr\u00fcn".encode()),
    "text-not-utf8": reply(b"gr\xfcn"),
    "text-latin-1": reply(b"gr\xfcn"),
    "json": reply(b'{"a": [1, null, "b"]}'),
    "json-bad": reply(b"{"),
    "json-none": reply(b""),
    "content-gzip": reply(gzip.compress(b"zipped", mtime=0), "Content-Encoding: gzip"),
    "content-large": reply(b"x" * LARGE),
    "content-too-large": reply(b"x" * (LARGE + 1)),
    "content-chunked": cut(b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n2\r\nab\r\n0\r\n\r\n"),
    "content-without-length": cut(b"\r\nto the end"),
    "content-cut": cut(b"Content-Length: 9\r\n\r\nfour"),
    "head-cut": cut(b"X-Odd: 1"),
    "answer-none": b"",
    "answer-garbage": b"garbage\r\n\r\n",
    "raw-read": reply(b"0123456789"),
    "raw-readline": reply(b"one\ntwo\nthree"),
    "raw-readinto": reply(b"0123456789"),
    "cookie-set": reply(b"", "Set-Cookie: sid=1; Path=/"),
}  # fmt: skip
HANGS_UP = {
    "timeout-missed",
    "timeout-dripping",
    "content-without-length",
    "content-cut",
    "head-cut",
    "answer-none",
    "answer-garbage",
}
STEPS = {"redirect-five-times": 5, "redirect-six-times": 6}


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request as it came in; ``body`` with its chunk lengths, and with what came beyond it."""

    name: str
    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class Log:
    """What all servers were asked by one interpreter."""

    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Server(ThreadingMixIn, HTTPServer):
    """Waits for its handlers when it is closed, so that the log is whole then."""

    daemon_threads = False

    def __init__(self, *, log: Log, places: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.log = log
        self.places = places

    def process_request(self, request, client_address):
        with self.log.lock:
            self.log.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """Say nothing: clients that break off are what some facts are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: _Server

    def __getattr__(self, name):
        # http.server looks for do_GET, do_BREW …; every method is served alike.
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, *args):
        """Say nothing."""

    def send_error(self, code, *args):
        """Refuse what is no request, in words that are those of every Python.

        Its headers are read first: to hang up on who still writes them is another answer.
        """
        while self.rfile.readline().strip():
            pass
        self.wfile.write(reply(b"malformed", status=f"{code.value} Refused"))

    def _serve(self):
        _, name, *steps = self.path.partition("?")[0].partition("#")[0].split("/")
        asked = Asked(
            name=name,
            line=self.requestline,
            headers=tuple(self.headers.items()),
            body=self._body(landed=bool(steps)),
        )
        with self.server.log.lock:
            self.server.log.asked.append(asked)
        self._answer(name, steps)
        if self.close_connection:
            asked.body += self._rest()

    def _body(self, *, landed: bool) -> bytes:
        """What follows the head; nothing after a redirect, where MicroPython's length is wrong."""
        if landed:
            return b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self._chunks()
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _chunks(self) -> bytes:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += self.rfile.readline()
        return body

    def _rest(self) -> bytes:
        """What the client still sends; closing on it would destroy the answer."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            return self.rfile.read()
        return b""

    def _answer(self, name: str, steps: list[str]) -> None:
        self.close_connection |= name in HANGS_UP
        if name == "timeout-missed":
            self.rfile.read(1)  # until the client goes
        elif name == "timeout-dripping":
            self._drip()
        else:
            self.wfile.write(self._fitting(self._reply(name, steps)))

    def _reply(self, name: str, steps: list[str]) -> bytes:
        if len(steps) < STEPS.get(name, 0):
            return redirect(302, "/".join(["{here}", name, *steps, "on"]))
        if "landed" in steps:
            return reply(b"landed")
        if name == "side-by-side":
            return reply(steps[0].encode())
        return ANSWERS.get(name, reply(b"fine", "Content-Type: text/plain"))

    def _fitting(self, text: bytes) -> bytes:
        """The answer with the servers' places in it, and without a body if it is for HEAD."""
        for word, place in self.server.places.items():
            text = text.replace(b"{%s}" % word.encode(), place.encode())
        head, end, body = text.partition(b"\r\n\r\n")
        return head + end + (b"" if self.command == "HEAD" else body)

    def _drip(self) -> None:
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")
            for _ in range(15):
                time.sleep(DRIP)
                self.wfile.write(b".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Three servers with one log; ``urls`` is what the script takes."""

    log: Log
    urls: tuple[str, ...]


@contextmanager
def serving(tls: ssl.SSLContext) -> Iterator[Servers]:
    """Serve here, elsewhere and over TLS; at the end wait until every request is in the log."""
    log, places = Log(), {}
    with ExitStack() as stack:
        here, elsewhere, secure = (_Server(log=log, places=places) for _ in range(3))
        secure.socket = tls.wrap_socket(
            # in the handler's thread, not in that which accepts
            secure.socket, server_side=True, do_handshake_on_connect=False,
        )  # fmt: skip
        for server in (here, elsewhere, secure):
            stack.enter_context(_running(server))
        places["here"] = f"http://127.0.0.1:{here.server_port}"
        places["elsewhere"] = f"http://127.0.0.1:{elsewhere.server_port}"
        yield Servers(
            log=log,
            urls=(*places.values(), f"https://127.0.0.1:{secure.server_port}"),
        )


@contextmanager
def _running(server: _Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(LOOK,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
