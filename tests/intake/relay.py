"""A wire between the agent and the broker that a test can look at, and cut."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

PUBACK = 4  # MQTT control packet type


class Packets:
    """Tells the types of MQTT packets from a stream of bytes (MQTT 5, 2.1)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[int]:
        """The types of the packets that are complete now."""
        self._rest += data
        while (length := self._length()) is not None and len(self._rest) >= length:
            yield self._rest[0] >> 4
            self._rest = self._rest[length:]

    def _length(self) -> int | None:
        """Bytes of the first packet, header included; None while that is unknown."""
        remaining = 0
        for position, byte in enumerate(self._rest[1:5]):
            remaining |= (byte & 0x7F) << (7 * position)
            if not byte & 0x80:
                return 2 + position + remaining
        return None


class Relay:
    """Passes bytes on to the broker; calls ``on_puback`` before a PUBACK gets there."""

    def __init__(self, target: int, *, on_puback: Callable[[], None] = lambda: None) -> None:
        self._target = target
        self._on_puback = on_puback
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._wires: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break all connections."""
        for wire in list(self._wires):
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for wire in (self._server, *self._wires):
            wire.close()

    def _accept(self) -> None:
        while True:
            try:
                agent, _ = self._server.accept()
            except OSError:
                return
            self._wires.append(agent)
            try:
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                agent.shutdown(socket.SHUT_RDWR)
                continue
            self._wires.append(broker)
            for pump in (self._up, self._down):
                thread = threading.Thread(target=pump, args=(agent, broker))
                self._threads.append(thread)
                thread.start()

    def _up(self, agent: socket.socket, broker: socket.socket) -> None:
        packets = Packets()
        for data in _chunks(agent):
            for kind in packets.feed(data):
                if kind == PUBACK:
                    self._on_puback()
            _pass_on(data, broker)
        _end(broker)

    @staticmethod
    def _down(agent: socket.socket, broker: socket.socket) -> None:
        for data in _chunks(broker):
            _pass_on(data, agent)
        _end(agent)


def _chunks(wire: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := wire.recv(65536):
            yield data


def _pass_on(data: bytes, wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.sendall(data)


def _end(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_WR)
