"""The control socket: commands to the running daemon, from root or from its own user.

One JSON object in a line goes in, one comes out: ``{"command": "flush"}``, with the command's
arguments beside it, then ``{"result": …}`` or ``{"error": "…"}``.
"""

import inspect
import json
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent import jsontext
from agent.intake.source import SourceUnavailable
from agent.progress import Progress

SOCKET = "control.sock"
LINE_MAX = 1024 * 1024  # bytes: an event may have 130,000
TIMEOUT = 10.0  # seconds that either side waits for the other
CONNECTIONS = 64  # at a time; beyond that a client is told to come again
CHUNK = 64 * 1024  # bytes read at once
BUSY = b'{"busy": true}\n'
PAUSE = 0.01  # seconds between attempts while many others wait to be let in

OPEN = frozenset(("status", "send"))  # what everybody may who can reach the socket (mode 0660)

Command = Callable[..., Any]  # takes keyword arguments; raises ControlError to refuse


class NotRunning(Exception):  # noqa: N818 - a state rather than an error
    """No daemon listens there."""


class ControlError(Exception):
    """The daemon did not do it; the message is its own."""


class _Ending(Exception):  # noqa: N818 - a state rather than an error
    """The daemon takes no more commands."""


@contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """The socket's path through a descriptor: a unix address has room for 107 bytes only."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


class _Handler(socketserver.BaseRequestHandler):
    server: "_Server"

    def handle(self) -> None:
        try:
            answer = self._answer(self._line())
            self.request.settimeout(TIMEOUT)
            self.request.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # who asked has gone, or was too slow

    def _line(self) -> bytes:
        """The request. One deadline for all of it: else a byte now and then holds us for ever."""
        until, line = time.monotonic() + TIMEOUT, b""
        while not line.endswith(b"\n") and len(line) < LINE_MAX:
            self.request.settimeout(max(0.001, until - time.monotonic()))
            chunk = self.request.recv(min(CHUNK, LINE_MAX - len(line)))
            if not chunk:
                break
            line += chunk
        return line

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            arguments = jsontext.loads(line)
            name = arguments.pop("command")
            command = self.server.commands[name]
            inspect.signature(command).bind(**arguments)
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"error": f"expected one of the commands {', '.join(self.server.commands)}"}
        if name not in OPEN and self._peer() not in (0, os.geteuid()):
            return {"error": f"cannot {name}: only root and the service's own user may"}
        try:
            with self.server.commanded():
                return {"result": command(**arguments)}
        except _Ending:
            return {"ending": True}
        except ControlError as refusal:
            return {"error": str(refusal)}
        except Exception as bug:
            self.server.on_bug(bug)
            raise

    def _peer(self) -> int:
        credentials = self.request.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        return int(struct.unpack("3i", credentials)[1])


class _Server(socketserver.ThreadingUnixStreamServer):
    # An idle client must not hold up the stop; a command that runs must, see `finish`.
    daemon_threads = True
    request_queue_size = 128
    commands: Mapping[str, Command]
    on_bug: Callable[[BaseException], None]

    def __init__(self, address: str) -> None:
        super().__init__(address, _Handler)
        self._changed = threading.Condition()
        self._running = 0
        self._ending = False
        self._slots = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if one is left: else whoever fills them takes every descriptor."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.sendall(BUSY)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    @contextmanager
    def commanded(self) -> Iterator[None]:
        """Around a command. Raises _Ending."""
        with self._changed:
            if self._ending:
                raise _Ending
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def finish(self) -> None:
        """Take no more commands; return when none runs, for then the queue may be closed."""
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: self._running == 0)


class ControlSocket:
    """Listens in the state directory."""

    def __init__(
        self,
        *,
        directory: Path,
        commands: Mapping[str, Command],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._directory = directory
        self._commands = commands
        self._on_bug = on_bug

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Answer until told to stop. The lock is held, so a socket left behind is nobody's."""
        path = self._directory / SOCKET
        with _short_path(self._directory) as address, self._listen(path, address) as server:
            server.commands, server.on_bug, server.timeout = self._commands, self._on_bug, 0.5
            while not stop.is_set():
                progress.beat()
                server.handle_request()
            server.finish()
        # On a card that has turned read-only it stays; who listens next removes it.
        with suppress(OSError):
            path.unlink(missing_ok=True)

    @staticmethod
    def _listen(path: Path, address: str) -> _Server:
        try:
            path.unlink(missing_ok=True)
            server = _Server(address)
            path.chmod(0o660)
        except OSError as error:
            raise SourceUnavailable(f"cannot listen on {path}: {error.strerror}") from error
        return server


def _connect(connection: socket.socket, address: str) -> None:
    """Connect; while more wait than the kernel keeps, try again: it does not let us wait."""
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.connect(address)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)
        else:
            return


def ask(directory: Path, command: str, **arguments: Any) -> Any:
    """Have the running daemon do it. Raises NotRunning, ControlError, OSError."""
    line = json.dumps({"command": command} | arguments).encode() + b"\n"
    until = time.monotonic() + TIMEOUT
    while "busy" in (answer := _answered(directory, line)) and time.monotonic() < until:
        time.sleep(PAUSE)
    if "ending" in answer:
        raise NotRunning(f"cannot reach the daemon in {directory}: it is ending")
    if "result" not in answer:
        raise ControlError(answer.get("error", f"cannot {command}: the daemon gave no answer"))
    return answer["result"]


def _answered(directory: Path, line: bytes) -> dict[str, Any]:
    """What the daemon answers to a line; nothing if it was killed meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        try:
            with _short_path(directory) as address:
                _connect(connection, address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunning(f"cannot reach the daemon in {directory}: it is not running") from None
        answer, gone = b"", False
        try:
            connection.sendall(line)
        except ConnectionError:
            gone = True  # it may have said before that it is busy
        try:
            with connection.makefile("rb") as lines:
                answer = lines.readline()
        except ConnectionError:
            gone = True
    if gone and not answer:
        raise NotRunning(f"cannot reach the daemon in {directory}: it is ending")
    # Without its end it is half an answer.
    found: dict[str, Any] = json.loads(answer) if answer.endswith(b"\n") else {}
    return found
