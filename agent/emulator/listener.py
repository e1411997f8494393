"""The listening socket of the emulator, its connections and their threads."""

import contextlib
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a connection raises when the client goes away, which is its right.
_GONE = (ConnectionError, TimeoutError, ssl.SSLError)


class Listener(ThreadingHTTPServer):
    """Accepts connections until ``close``, each in a daemon thread of its own.

    ``report`` gets every exception of a handler that is not the client going away.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *,
        host: str,
        port: int,
        handler: type[BaseHTTPRequestHandler],
        tls: ssl.SSLContext | None,
        report: Callable[[BaseException], None],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._tls = tls
        self._report = report
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((host, port), handler)
        self._thread = threading.Thread(target=self.serve_forever, name="emulator", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on, also where 0 was asked for."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without asking DNS for the host's full name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def close(self, *, release: Callable[[], None], timeout: float) -> bool:
        """Stop accepting and end all connections; return whether their threads ended in time.

        ``release`` is called once the connections are cut, so that what waits in them gets away
        and can no longer answer.
        """
        # A shut-down socket is ready at once: serve_forever need not sleep its half second out.
        _shut(self.socket)
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._changed:
            for connection in self._open:
                _shut(connection)
        release()
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection before its thread starts, so that ``close`` misses none."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        connection = request
        try:
            connection = self._secured(request)
            self.finish_request(connection, client_address)
        except Exception:  # whatever it is, it is a bug that handle_error must show
            self.handle_error(connection, client_address)
        finally:
            self._forget(connection)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection for which no thread could be started."""
        self._forget(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's
        """Report the exception at hand, unless it is the client who went away."""
        error = sys.exception()
        if error is not None and not isinstance(error, _GONE):
            self._report(error)

    def _secured(self, request: socket.socket) -> socket.socket:
        """Return the connection with TLS on it, if there is to be.

        Here and not at accept: a client that is slow to shake hands must not hold up the others.
        """
        if self._tls is None:
            return request
        with self._changed:
            self._open.discard(request)
            secured = self._tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
            self._open.add(secured)
        return secured

    def _forget(self, connection: socket.socket) -> None:
        # Closed under the lock: `close` must not shut a descriptor that is somebody else's by now.
        with self._changed:
            connection.close()
            self._open.discard(connection)
            self._changed.notify_all()


def _shut(connection: socket.socket) -> None:
    # The socket's own shutdown: the one of TLS takes the keys from under a thread that reads.
    with contextlib.suppress(OSError):  # not connected any more
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
