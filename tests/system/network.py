"""A device and the rest of the world, as network namespaces with a cable between them. Needs root.

The device is ``near``, everything else is ``far``: the name server, the endpoint, the captive
portal, the proxy. A test lives on the device; what it starts in ``with network.far.entered()``
lives out there.
"""

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.system.disk import run
from tests.waiting import until

TOOLS = {"ip": "iproute2", "nft": "nftables", "dnsmasq": "dnsmasq-base"}
CLONE_NEWNET = 0x40000000  # from linux/sched.h
LIBC = ctypes.CDLL(None, use_errno=True)  # os.setns is younger than Python 3.11
PREFIX = "ga4-test"
DEVICE, WORLD, PORTAL = "10.99.0.1", "10.99.0.2", "10.99.0.3"
DEVICE_6, WORLD_6 = "2001:db8:99::1", "2001:db8:99::2"  # the documentation's prefix (RFC 3849)
CABLE = "cable0"


def missing_tools() -> str:
    """What has to be installed before a Network can be made; empty if nothing."""
    lacking = sorted(package for tool, package in TOOLS.items() if not shutil.which(tool))
    return f"apt install {' '.join(lacking)}" if lacking else ""


class Namespace:
    """A network of its own, and the /etc/resolv.conf of the programs in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._etc = Path("/etc/netns") / name
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command that runs another one in it, with its resolv.conf."""
        return ("ip", "netns", "exec", self.name, *command)

    def run(self, *command: str) -> str:
        """Run a command in it that must work; its output."""
        return run(*self.inside(*command))

    def ask_names_of(self, server: str) -> None:
        """Let programs that start in it from now on resolve names there, with libc's own patience."""
        self._etc.mkdir(parents=True, exist_ok=True)
        (self._etc / "resolv.conf").write_text(f"nameserver {server}\n")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it: sockets, threads and processes that are made in the block belong to it."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._move_to(Path("/run/netns") / self.name)
            try:
                yield
            finally:
                self._set(before)
        finally:
            os.close(before)

    def remove(self) -> None:
        """Take it away; does nothing if it is gone."""
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        shutil.rmtree(self._etc, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._etc.parent.rmdir()  # unless it is somebody else's too

    def _move_to(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._set(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _set(descriptor: int) -> None:
        if LIBC.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


class Network:
    """The device, the world, and what can go wrong between them.

    All is well at first: the cable is in, IPv4 and IPv6 work, no name is known (``serve_names``).
    """

    _numbers = itertools.count()

    def __init__(self, directory: Path) -> None:
        self._pid_file = directory / "dnsmasq.pid"
        name = f"{PREFIX}-{os.getpid()}-{next(self._numbers)}"
        remove_leftovers()
        self._made: list[Namespace] = []
        try:
            self.near, self.far = self._make(f"{name}-near"), self._make(f"{name}-far")
            self._connect()
        except BaseException:
            self.remove()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Take everything away, whatever state it is in."""
        self._end_names()
        for namespace in self._made:
            namespace.remove()

    # -- the cable ----------------------------------------------------------------------------

    def unplug(self) -> None:
        """The device's link goes down, and its routes with it."""
        self.near.run("ip", "link", "set", CABLE, "down")

    def plug_in(self) -> None:
        """The link comes up, and DHCP sets the default routes again."""
        self.near.run("ip", "link", "set", CABLE, "up")
        self.near.run("ip", "route", "replace", "default", "via", WORLD)
        self.near.run("ip", "addr", "replace", f"{DEVICE_6}/64", "dev", CABLE, "nodad")
        self.near.run("ip", "-6", "route", "replace", "default", "via", WORLD_6)

    # -- the way --------------------------------------------------------------------------------

    def disturb(self, *rules: str) -> None:
        """What the world does with the device's packets: ``tcp dport 443 : drop``, for example.

        Where they arrive: dropped where they leave, sending would fail at once.
        """
        self._filter(self.far, *rules)

    def disturb_answers(self, *rules: str) -> None:
        """The same on the way back."""
        self._filter(self.near, *rules)

    def calm(self) -> None:
        """Let everything through again."""
        for namespace in (self.near, self.far):
            namespace.run("nft", "flush", "ruleset")

    def disturbed(self) -> int:
        """How many packets have met one of the rules that stand now."""
        return sum(self._counted(namespace) for namespace in (self.near, self.far))

    # -- names ----------------------------------------------------------------------------------

    def serve_names(self, *options: str) -> None:
        """Answer the device's questions for names: options of dnsmasq, in place of those before."""
        self._end_names()
        self.far.run(
            "dnsmasq", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
            "--bind-interfaces", f"--listen-address={WORLD}", f"--pid-file={self._pid_file}",
            "--log-facility=/dev/null", *options,
        )  # fmt: skip # it goes into the background once it listens

    def _end_names(self) -> None:
        if not self._pid_file.exists():
            return
        pid = int(self._pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}/exe").exists(), "dnsmasq to end")
        self._pid_file.unlink()

    def _make(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._made.append(namespace)
        return namespace

    def _connect(self) -> None:
        peer = ("type", "veth", "peer", "name", CABLE, "netns", self.far.name)
        run("ip", "link", "add", CABLE, "netns", self.near.name, *peer)
        self.near.run("ip", "addr", "add", f"{DEVICE}/24", "dev", CABLE)
        for address in (f"{WORLD}/24", f"{PORTAL}/24"):
            self.far.run("ip", "addr", "add", address, "dev", CABLE)
        self.far.run("ip", "addr", "add", f"{WORLD_6}/64", "dev", CABLE, "nodad")
        self.far.run("ip", "link", "set", CABLE, "up")
        self.plug_in()
        self.near.ask_names_of(WORLD)

    @staticmethod
    def _filter(namespace: Namespace, *rules: str) -> None:
        namespace.run("nft", "flush", "ruleset")
        namespace.run("nft", "add table inet faults")
        hook = "{ type filter hook input priority 0 ; }"
        namespace.run("nft", f"add chain inet faults input {hook}")
        for rule in rules:
            match, _, verdict = rule.partition(" : ")
            namespace.run("nft", f"add rule inet faults input {match} counter {verdict}")

    @staticmethod
    def _counted(namespace: Namespace) -> int:
        rules = json.loads(namespace.run("nft", "-j", "list", "ruleset"))["nftables"]
        expressions = [each for rule in rules for each in rule.get("rule", {}).get("expr", [])]
        return sum(each["counter"]["packets"] for each in expressions if "counter" in each)


def remove_leftovers() -> None:
    """Namespaces of test runs that were killed, and the name servers in them."""
    for name in run("ip", "netns", "list").split():
        prefix, _, rest = name.partition(f"{PREFIX}-")
        owner = rest.partition("-")[0]
        if prefix or not owner.isdigit() or Path(f"/proc/{owner}").exists():
            continue
        for pid in run("ip", "netns", "pids", name).split():
            os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


class Proxy:
    """A proxy for https (CONNECT), out in the world. It begins where it is made.

    ``refuse_with``: the answer in place of a tunnel, such as ``407 Proxy Authentication Required``.
    Every tunnel leads to ``target``, whatever name it was asked for; ``asked`` are those names.
    """

    def __init__(self, *, port: int, target: tuple[str, int]) -> None:
        self.refuse_with = ""
        self.asked: list[str] = []
        self._target = target
        self._open: list[socket.socket] = []
        self._server = socket.create_server((WORLD, port))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Cut every tunnel, and listen no more."""
        _shut(self._server)
        self._threads[0].join()
        for wire in self._open:
            _shut(wire)
        for thread in self._threads:
            thread.join()
        for wire in (self._server, *self._open):
            wire.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._open.append(client)
            self._begin(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        head = _head(client)
        if not head:
            return
        self.asked.append(head.split()[1])
        if self.refuse_with:
            client.sendall(f"HTTP/1.1 {self.refuse_with}\r\nContent-Length: 0\r\n\r\n".encode())
            _shut(client)
            return
        try:
            endpoint = socket.create_connection(self._target)
        except OSError:
            _shut(client)
            return
        self._open.append(endpoint)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._begin(_pump, endpoint, client)
        _pump(client, endpoint)

    def _begin(self, target, *arguments) -> None:
        # In the namespace of the thread that starts it, as everything in here.
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()


def _head(client: socket.socket) -> str:
    data = b""
    with contextlib.suppress(OSError):
        while not data.endswith(b"\r\n\r\n"):
            piece = client.recv(1)
            if not piece:
                return ""
            data += piece
    return data.decode()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for wire in (source, sink):
        _shut(wire)


def _shut(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
