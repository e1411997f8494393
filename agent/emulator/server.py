"""The emulator itself.

It stands on the standard library's ``ThreadingHTTPServer`` because it has to misbehave on the
level of sockets: reset a connection before the body is read, cut it within the status line, hang,
send byte by byte. A WSGI server, such as the one that takes events in, never gives the socket away.
"""

import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.emulator.desk import Desk
from agent.emulator.faults import Fault
from agent.emulator.handler import Handler
from agent.emulator.listener import Listener
from agent.emulator.record import Record, Recorded


class Emulator:
    """A local GA4. Takes what GA4 takes, records it, and fails on command.

    Every method can be called from any thread, but start and stop from one. It can be started
    again after a stop, on the same port; meanwhile connections are refused. What was received
    stays, the newest ``keep`` requests of it in memory and all of it in the file ``record``,
    which is appended to. ``clock`` gives wall seconds: for the record and the Date of answers.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        record: Path | None = None,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
        keep: int = 100_000,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._record = Record(path=record, keep=keep)
        self._desk = Desk(record=self._record, clock=clock)
        self._listener: Listener | None = None
        self._bugs: list[BaseException] = []

    def start(self) -> None:
        """Listen; OSError, with what to do, if the address or the file cannot be had."""
        if self._listener is not None:
            raise RuntimeError("cannot start the emulator: found it running, expected it stopped")
        listener = self._listen()
        try:
            self._record.open()
        except OSError:
            listener.server_close()
            raise
        self._listener = listener
        self._port = listener.port
        listener.start()

    def stop(self) -> None:
        """Cut every connection, hanging ones too, and close; does nothing if it is stopped."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if not listener.close(release=self.recover, timeout=5):
            self._take_bug(RuntimeError("cannot stop the emulator: found a handler that goes on"))
        self._record.close()

    def serve(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set, in the foreground."""
        with self:
            stop.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash; the port is known once it was started."""
        if self._port == 0:
            raise RuntimeError(
                "cannot tell the url: found no port yet, expected a started emulator"
            )
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self._port}"

    def fail(self, fault: Fault, *more: Fault) -> None:
        """Put faults in force instead of those that are.

        A request meets the first that matches it and is not used up, so
        ``fail(Fault("status", times=2), Fault("cut_after", times=1))`` is a sequence.
        """
        self._desk.fail((fault, *more))

    def recover(self) -> None:
        """Clear the faults, and release what hangs on them."""
        self._desk.fail(())

    def requests(self) -> tuple[Recorded, ...]:
        """Return the requests in memory, oldest first: all but those that drive the emulator."""
        return self._record.requests()

    def events(self) -> tuple[dict[str, Any], ...]:
        """Return the events that GA4 counted, of the requests in memory, oldest first."""
        return self._record.events()

    def stats(self) -> dict[str, Any]:
        """Return the counts, all of one moment.

        ``requests``, ``counted_events``, ``attempts_since_fault``; of what GA4 would have done in
        silence, ``violations`` by code and ``moved``, the times that it would have moved.
        """
        return self._record.stats()

    @property
    def attempts(self) -> int:
        """How many requests came, whatever became of them."""
        return int(self.stats()["requests"])

    @property
    def attempts_since_fault(self) -> int:
        """How many requests came since the last ``fail``, or ever if there was none."""
        return int(self.stats()["attempts_since_fault"])

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Ask ``predicate`` now and after each request; return whether it came true in time."""
        return self._record.wait_for(predicate, timeout)

    @property
    def bugs(self) -> tuple[BaseException, ...]:
        """What went wrong in the emulator itself; a test that uses it asserts that it is empty."""
        return tuple(self._bugs)

    def _listen(self) -> Listener:
        try:
            return Listener(
                host=self._host,
                port=self._port,
                handler=Handler.for_desk(self._desk),
                tls=self._tls,
                report=self._take_bug,
            )
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot listen on {self._host}:{self._port}: found {error.strerror}, "
                "expected a free address of this machine; choose another with --listen",
            ) from error

    def _take_bug(self, bug: BaseException) -> None:
        self._bugs.append(bug)
        traceback.print_exception(bug, file=sys.stderr)
