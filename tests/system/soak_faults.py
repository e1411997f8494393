"""What is done to the machine in a soak: a plan drawn from a seed, and how each fault is made."""

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.emulator import Emulator, Fault
from tests.acceptance.daemon import Daemon
from tests.fake_clock import AFTER_POWER_ON, FakeClock
from tests.mosquitto import Mosquitto
from tests.system.disk import Disk
from tests.system.oracle import Boot, Chronicle, Trouble
from tests.system.soak_programs import UNWANTED, Gate, MqttProgram, sync
from tests.system.test_power_cut import threads_rest
from tests.waiting import until

SAVING = "Saving in-memory database"  # how mosquitto says that it writes its store
REFUSES = Fault("status", status=400, match=f'"{UNWANTED}"')
START = 60.0  # seconds for the agent to answer, on a slow disk too
END = 60.0  # seconds for it to end when it is asked to
QUIET = 0.12  # of the time, at the end, without new faults

NETWORK: Mapping[str, Callable[[random.Random], Fault]] = {
    "unavailable": lambda rng: Fault("status", status=rng.choice([500, 502, 503]), times=_few(rng)),
    "too_many": lambda rng: Fault("status", status=429, retry_after=str(rng.randint(1, 6))),
    "hang": lambda rng: Fault("hang", times=_few(rng)),
    "cut_before": lambda rng: Fault("cut_before", times=_few(rng)),
    "cut_half": lambda rng: Fault("cut_half", times=_few(rng)),
    "cut_after": lambda rng: Fault("cut_after", times=rng.randint(1, 8)),
    # A hundred bytes: within the total deadline, and beyond it.
    "drip": lambda rng: Fault("drip", seconds=rng.choice([0.005, 0.01, 0.1]), times=_few(rng)),
    "login_page": lambda rng: Fault("login_page", times=_few(rng)),
    "redirect": lambda rng: Fault("redirect", times=_few(rng)),
    "delay": lambda rng: Fault("delay", seconds=rng.choice([0.1, 0.5, 1.5])),
}
WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(NETWORK, 1.0), "down": 2.0,
    "kill": 4.0, "term": 2.0, "reload": 2.0,
    "broker_kill": 2.0, "broker_stop": 1.0,
    "power_cut": 4.0, "full_disk": 2.0, "slow_disk": 3.0, "read_only": 1.0,
    "clock_jump": 3.0, "ntp": 1.0,
}  # fmt: skip
SECONDS: Mapping[str, tuple[float, float]] = {
    "kill": (0, 3), "term": (0, 3), "reload": (0, 0), "power_cut": (0, 3),
    "broker_kill": (0, 4), "broker_stop": (0, 4), "slow_disk": (0.5, 8), "full_disk": (2, 12),
    "read_only": (1, 10), "delay": (2, 8), "clock_jump": (1, 15), "ntp": (1, 15),
}  # fmt: skip
USUAL = (1.0, 15.0)
NEEDS_DISK = ("power_cut", "full_disk", "read_only")


def _few(rng: random.Random) -> int | None:
    """A few requests, or all of them."""
    return rng.choice([None, rng.randint(1, 10)])


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that begins after ``at`` seconds and lasts for so many. ``draw``: 0 to 1, for it."""

    kind: str
    at: float
    seconds: float
    draw: float
    fault: Fault | None = None


def plan(seed: int, minutes: float, kinds: Sequence[str]) -> list[Planned]:
    """The faults of a run: the same for the same seed, length and kinds."""
    rng, end, at = random.Random(f"{seed}/faults"), minutes * 60 * (1 - QUIET), 2.0
    drawn: list[Planned] = []
    while (at := at + rng.expovariate(1 / 4)) < end:
        kind = rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        seconds = rng.uniform(*SECONDS.get(kind, USUAL))
        fault = NETWORK[kind](rng) if kind in NETWORK else None
        drawn.append(Planned(kind, at, min(seconds, end - at), rng.random(), fault))
    return drawn


class Network:
    """The way to the local GA4, with several faults in force at once."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._down = 0
        self._apply()

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        with self._lock:
            self._faults.append(fault)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._faults.remove(fault)
                self._apply()

    @contextmanager
    def down(self) -> Iterator[None]:
        with self._lock:
            self._down += 1
            if self._down == 1:
                self._emulator.stop()
        try:
            yield
        finally:
            with self._lock:
                self._down -= 1
                if not self._down:
                    self._emulator.start()
                    self._apply()

    def _apply(self) -> None:
        # What is refused is so at all times, so that it is never counted; only who cuts before
        # the body is read comes first.
        unread = [fault for fault in self._faults if fault.kind == "cut_before"]
        others = [fault for fault in self._faults if fault.kind != "cut_before"]
        self._emulator.fail(*unread, REFUSES, *others)


class Agent:
    """The daemon under somebody who starts it again. ``hold`` keeps others from touching it."""

    def __init__(self, daemon: Daemon, chronicle: Chronicle) -> None:
        self.daemon = daemon
        self.hold = threading.RLock()
        self.peak_kb = 0
        self.lives = 0
        self._chronicle = chronicle
        self._mourned = 0  # the process whose end was told last

    def up(self) -> None:
        """Start it, and wait until it takes events. It must not end by itself.

        If it does, whoever watches starts it again.
        """
        with self.hold:
            self.daemon.spawn()
            self.lives += 1
            begin = time.monotonic()
            while not self.daemon.listens():
                if self.daemon.died():
                    return
                if time.monotonic() > begin + START:
                    self._say("start", f"it took more than {START:.0f} s to answer")
                    return
                time.sleep(0.05)

    def found_dead(self) -> None:
        """It ended, and nobody asked it to."""
        if self.daemon.pid == self._mourned:
            return
        self._mourned = self.daemon.pid
        status, last = self.daemon.exit_status(), self.daemon.tail().splitlines()[-1]
        # Without the time: what happens ten times is told once.
        said = last.partition(" ")[2].partition(" ")[2]
        self._say("ended", f"the agent ended by itself with {status}: {said}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it ended by itself."""
        if self.daemon.died():
            self.found_dead()
        else:
            self.daemon.signal(number)

    @contextmanager
    def killing(self) -> Iterator[None]:
        """What happens within ends it."""
        self.note_memory()
        began = time.time()
        yield
        self._chronicle.kills.append((began, time.time()))

    def note_memory(self) -> None:
        """Its peak, as long as it lives."""
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines()
            peak = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
            self.peak_kb = max(self.peak_kb, int(peak))

    def _say(self, rule: str, text: str) -> None:
        self._chronicle.found.append((rule, text))


class Faults:
    """Makes each planned fault on the real machine; as contexts, so that each ends."""

    def __init__(
        self,
        *,
        agent: Agent,
        network: Network,
        broker: Mosquitto,
        publisher: MqttProgram,
        clock: FakeClock,
        disk: Disk | None,
        gate: Gate,
        chronicle: Chronicle,
        stop: threading.Event,
    ) -> None:
        self._agent = agent
        self._network = network
        self._broker = broker
        self._publisher = publisher
        self._clock = clock
        self._disk = disk
        self._gate = gate
        self._chronicle = chronicle
        self._stop = stop
        self._broker_hold = threading.Lock()
        self._clock_hold = threading.Lock()
        self._full_hold = threading.Lock()
        self._full = False
        self._threads: list[threading.Thread] = []
        self.wall = 0.0  # seconds by which the machine's clock is off
        self._variants = 0
        self.bugs: list[BaseException] = []

    def run(self, planned: Sequence[Planned]) -> None:
        """Begin each at its time. Returns when all are over."""
        begin = time.monotonic()
        for each in planned:
            self._stop.wait(max(0.0, begin + each.at - time.monotonic()))
            if self._stop.is_set():
                break
            thread = threading.Thread(target=self._make, args=(each,), name=each.kind)
            thread.start()
            self._threads = [t for t in (*self._threads, thread) if t.is_alive()]
        for thread in self._threads:
            thread.join()

    def _make(self, planned: Planned) -> None:
        began, detail = time.time(), ""
        if planned.fault is not None:
            detail = _said(planned.fault)
        try:
            with self._context(planned) as said:
                detail = said or detail
                self._stop.wait(planned.seconds)
        except BaseException as bug:
            self.bugs.append(bug)
            self._stop.set()
        self._note(planned.kind, began, detail)

    def _note(self, kind: str, began: float, detail: str = "") -> None:
        trouble = Trouble(kind=kind, began=began, ended=time.time(), detail=detail)
        self._chronicle.troubles.append(trouble)

    def _context(self, planned: Planned) -> AbstractContextManager[str | None]:
        if planned.fault is not None:
            return _unsaid(self._network.failing(planned.fault))
        if planned.kind == "down":
            return _unsaid(self._network.down())
        make: Callable[[Planned], AbstractContextManager[str | None]]
        make = getattr(self, f"_{planned.kind}")
        return make(planned)

    # -- the agent ----------------------------------------------------------------------------------

    @contextmanager
    def _kill(self, _planned: Planned) -> Iterator[None]:
        with self._agent.hold:
            with self._agent.killing():
                self._agent.daemon.kill()
            yield
            self._agent.up()

    @contextmanager
    def _term(self, _planned: Planned) -> Iterator[str]:
        with self._agent.hold:
            with self._agent.killing():
                begin, ended = time.monotonic(), self._agent.daemon.died()
                self._agent.signal(signal.SIGTERM)
                status = self._agent.daemon.exit_status(timeout=END)
                took = time.monotonic() - begin
            if status and not ended:
                text = f"SIGTERM ended it with {status}:\n{self._agent.daemon.tail()[-1500:]}"
                self._chronicle.found.append(("ended", text))
            yield f"took {took:.1f} s"
            self._agent.up()

    @contextmanager
    def _reload(self, planned: Planned) -> Iterator[str]:
        """Another configuration, or the same one, or a bad one, which is refused."""
        with self._agent.hold:
            good = self._agent.daemon.setup.toml()
            delay = planned.draw < 0.5
            bad = planned.draw > 0.8
            text = good.replace('"50 ms"', '"200 ms"') if delay else good
            self._agent.daemon.write(f"{text}\n[nonsense]\n" if bad else text)
            self._agent.signal(signal.SIGHUP)
            yield "to another" if delay else "to a bad one" if bad else "to the same"
            if bad:
                time.sleep(0.5)
                self._agent.daemon.write(good)

    # -- the broker ------------------------------------------------------------------------------

    @contextmanager
    def _broker_kill(self, planned: Planned) -> Iterator[str]:
        """It saves its store, works on for a moment, and is killed: what it took then is lost."""
        with self._broker_hold:
            until(self._publisher.connected, "the publisher to be connected")
            self._save()
            time.sleep(planned.draw)
            self._broker.kill()
            forgotten = self._publisher.forgotten()
            yield f"{forgotten} messages in doubt"
            self._broker.start()

    @contextmanager
    def _broker_stop(self, _planned: Planned) -> Iterator[None]:
        with self._broker_hold:
            self._broker.stop()
            yield
            self._broker.start()

    def _save(self) -> None:
        os.truncate(self._broker._log, 0)  # else hours of it are read again each time
        acknowledged = self._publisher.acknowledged_so_far()
        assert self._broker._process is not None
        os.kill(self._broker._process.pid, signal.SIGUSR1)
        until(lambda: self._broker.said(SAVING) >= 1, "mosquitto to save")
        self._publisher.round_trip()
        self._publisher.saved(acknowledged)

    # -- the disk ----------------------------------------------------------------------------------

    @contextmanager
    def _power_cut(self, planned: Planned) -> Iterator[str]:
        """Freeze, cut, boot. The clock begins in 1970, or a few minutes behind."""
        assert self._disk is not None
        with self._gate.alone(), self._agent.hold:
            with self._agent.killing():
                self._freeze()
                self._disk.cut()
                self._agent.daemon.kill()
            yield self._reboot(planned)
            self._agent.up()

    def _freeze(self) -> None:
        self._agent.signal(signal.SIGSTOP)
        until(lambda: threads_rest(self._agent.daemon.pid), "the agent to freeze")

    def _reboot(self, planned: Planned) -> str:
        """Everything on it has ended. Its clock has no battery, or was saved at the last stop."""
        assert self._disk is not None
        self._disk.unmount()
        self._disk.mount()
        if not self._full:
            self._give_space_back()
        lost = planned.draw < 0.6
        wall = AFTER_POWER_ON if lost else time.time() - 300
        with self._clock_hold:
            self.wall = wall - time.time()
            self._clock.reboot(wall=wall)
            self._chronicle.boots.append(Boot(time.time()))
        return "boots in 1970" if lost else "boots 300 s behind"

    @contextmanager
    def _read_only(self, planned: Planned) -> Iterator[None]:
        """The card fails and takes nothing any more; then somebody changes its reader and boots."""
        assert self._disk is not None
        with self._gate.alone(), self._agent.hold:
            self._freeze()  # what is acknowledged now was so before
            self._disk.break_down()
            self._agent.signal(signal.SIGCONT)
        yield
        with self._gate.alone(), self._agent.hold:
            with self._agent.killing():
                self._agent.daemon.kill()
            self._reboot(planned)
            self._agent.up()

    @contextmanager
    def _full_disk(self, _planned: Planned) -> Iterator[None]:
        assert self._disk is not None
        with self._full_hold:
            self._full = True
            # What the last one gave back is free only with the journal's next commit.
            with self._gate.using(), contextlib.suppress(OSError):
                self._disk.fill()
            try:
                yield
            finally:
                self._full = False
                with self._gate.using():
                    self._give_space_back()

    def _give_space_back(self) -> None:
        """For good: without the fsync a power cut brings the file back."""
        assert self._disk is not None
        with contextlib.suppress(OSError):  # read-only: the next boot does it
            (self._disk.path / "filler").unlink(missing_ok=True)
            sync(self._disk.path)

    @contextmanager
    def _slow_disk(self, _planned: Planned) -> Iterator[None]:
        """Nothing gets on the agent's disk meanwhile, as on a dying card."""
        with self._gate.using():
            state = self._agent.daemon.setup.state
            connection = sqlite3.connect(state / "queue.db", isolation_level=None, timeout=10)
            try:
                with contextlib.suppress(sqlite3.OperationalError):  # on a full disk
                    connection.execute("BEGIN IMMEDIATE")
                yield
            finally:
                connection.close()

    # -- the clock ---------------------------------------------------------------------------------

    @contextmanager
    def _clock_jump(self, planned: Planned) -> Iterator[str]:
        """Somebody sets it wrong; it stays so until the next jump, NTP or boot."""
        with self._clock_hold:
            day = 86_400.0
            self.wall = random.Random(planned.draw).choice(
                [-40 * day, -day, -3600.0, -30.0, 30.0, 3600.0, day, 400 * day]
            )
            self._clock.synchronise(ntp=False)
            self._clock.set_offset(self.wall)
        yield f"by {self.wall:+.0f} s"

    @contextmanager
    def _ntp(self, _planned: Planned) -> Iterator[None]:
        with self._clock_hold:
            self.wall = 0.0
            self._clock.set_offset(0)
            self._clock.synchronise()
            yield
            self._clock.synchronise(ntp=False)


def _said(fault: Fault) -> str:
    parts: dict[str, Any] = {"status": fault.status if fault.kind == "status" else None}
    parts |= {"Retry-After": fault.retry_after, "s": fault.seconds or None, "times": fault.times}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


@contextmanager
def _unsaid(context: AbstractContextManager[None]) -> Iterator[None]:
    with context:
        yield
