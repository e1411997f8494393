"""One connection to the emulator: reads requests, answers them or misbehaves."""

import contextlib
import socket
import struct
from http.server import BaseHTTPRequestHandler
from typing import ClassVar, Final

from agent.emulator.answer import Answer, text_answer
from agent.emulator.desk import CONTROL, Desk
from agent.emulator.faults import Due
from agent.emulator.record import Head

MAX_BODY: Final = 16 * 1024 * 1024
# More than this is not read away for a client that sends on after it was refused.
_MAX_DISCARDED: Final = 4 * MAX_BODY
# Less than a status line: clients take a whole one for an answer, even if the headers are cut.
_HALF: Final = b"HTTP/1.1 2"


class Handler(BaseHTTPRequestHandler):
    """Serves one connection for the desk of its class; ``for_desk`` makes such a class."""

    desk: ClassVar[Desk]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @classmethod
    def for_desk(cls, desk: Desk) -> type["Handler"]:
        """Return a handler class for ``desk``: http.server makes handlers from a class alone."""
        return type("DeskHandler", (cls,), {"desk": desk})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing: the record tells what came, and a target holds the secret."""

    def serve(self) -> None:
        """Answer one request whose headers have been read."""
        head = Head.of(self.command, self.path)
        if head.path.startswith(CONTROL):
            self._serve_control(head)
        elif self.desk.cuts_unread(head):
            self._reset()
        else:
            self._serve_recorded(head)

    # The names that http.server calls.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve  # noqa: N815

    def _serve_control(self, head: Head) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self._refuse(refusal)
            return
        body = self._body()
        if body is not None:
            self._send(self.desk.control(head, body))

    def _serve_recorded(self, head: Head) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self.desk.refuse(head, refusal)
            self._refuse(refusal)
            return
        body = self._body()
        if body is None:
            return
        verdict = self.desk.judge(head, body)
        if verdict.due is None:
            self._send(verdict.answer)
        else:
            self._misbehave(verdict.due, verdict.answer)

    def _refusal(self) -> Answer | None:
        """Return the answer to a request whose body cannot be taken, else None."""
        if "Transfer-Encoding" in self.headers:
            return text_answer("found chunks, expected a Content-Length", status=411)
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            return text_answer("found a bad Content-Length, expected a number", status=400)
        # The number of digits first: int() refuses to read thousands of them.
        if len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            return text_answer(f"found a larger body, expected {MAX_BODY} bytes", status=413)
        return None

    def _body(self) -> bytes | None:
        """Return the whole body; None if the client left before its end, which is no request."""
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        if len(body) == length:
            return body
        self.close_connection = True
        return None

    def _misbehave(self, due: Due, answer: Answer) -> None:
        match due.fault.kind:
            case "hang":
                due.over.wait()
                self.close_connection = True
            case "delay":
                due.over.wait(due.fault.seconds)
                self._send(answer)
            case "drip":
                self._drip(due, answer)
            case "cut_before":
                self._reset()
            case "cut_half":
                self.close_connection = True
                self.connection.sendall(_HALF)
            case "cut_after":
                self.close_connection = True
            case _:
                self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.connection.sendall(self._encoded(answer))

    def _drip(self, due: Due, answer: Answer) -> None:
        for byte in self._encoded(answer):
            self.connection.sendall(bytes((byte,)))
            due.over.wait(due.fault.seconds)

    def _encoded(self, answer: Answer) -> bytes:
        return answer.encode(
            at=self.desk.clock(),
            close=self.close_connection,
            head_only=self.command == "HEAD",
        )

    def _reset(self) -> None:
        # Lingering for 0 seconds makes the close that follows a RST instead of a FIN.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def _refuse(self, answer: Answer) -> None:
        """Answer, then read away what still comes: closing on it would destroy the answer."""
        self.close_connection = True
        self._send(answer)
        # The socket's own shutdown: the one of TLS would forget the keys that reading needs.
        with contextlib.suppress(OSError):  # not connected any more
            socket.socket.shutdown(self.connection, socket.SHUT_WR)
        self.connection.settimeout(2)
        left = _MAX_DISCARDED
        while left > 0:
            piece = self.rfile.read1(65536)
            if not piece:
                return
            left -= len(piece)
