"""A device whose clocks the test sets, and the true time that everybody else lives in."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent.emulator import Emulator
from tests.acceptance.daemon import Daemon
from tests.acceptance.publishers import post
from tests.fake_clock import AFTER_POWER_ON, FakeClock

SECOND = 1_000_000
HOUR = 3600.0

Arrived = Mapping[str, dict[str, Any]]


class Device(FakeClock):
    """A machine that has just been switched on. Its clock shows 1970 until it learns the time."""

    def __init__(self, directory: Path) -> None:
        self._ahead = 0.0
        super().__init__(directory)
        self.reboot()

    def carry(self, daemon: Daemon) -> None:
        """Let a daemon and its commands live on this device."""
        shim = {name: self.environ[name] for name in ("LD_PRELOAD", "FAKE_CLOCK")}
        daemon.environ = daemon.environ | shim

    def now(self) -> float:
        """The true time, in seconds since 1970."""
        return time.time() + self._ahead

    def shown_us(self) -> int:
        """What a program on the device reads from its wall clock."""
        return int((time.time() + self._wall) * SECOND)

    def learn_the_time(self) -> None:
        """NTP sets the clock."""
        self.set_offset(self._ahead)
        self.synchronise()

    def pass_time(self, seconds: float) -> None:
        """Time goes by while it is on."""
        self._ahead += seconds
        self._boot += seconds
        self.set_offset(self._wall + seconds)

    def power_off(self, seconds: float) -> None:
        """Switched on again after so long; its processes must have ended."""
        self._ahead += seconds
        self.reboot(wall=AFTER_POWER_ON)


@dataclass(frozen=True, slots=True)
class Diary:
    """What happened on a device, by the events' names and in order, and when at true time."""

    device: Device
    moments: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """The event happens within the block."""
        before = self.device.now()
        yield
        self.moments[name] = (before, self.device.now())

    def tap(self, daemon: Daemon, name: str, **event: Any) -> None:
        """A visitor taps, and the kiosk's program hands that in."""
        with self.noting(name):
            hand_in(daemon, {"name": name, **event})

    def check(self, emulator: Emulator, *, within: float) -> Arrived:
        """All arrived once, in order, with their true times give or take so many seconds.

        None of them, and nothing else, was sent with a time of the future. Returns what arrived.
        """
        found = arrived(emulator)
        assert found.keys() == self.moments.keys()
        for name, (before, after) in self.moments.items():
            at = found[name]["timestamp_micros"] / SECOND
            assert before - within <= at <= after + within, (name, before, at, after)
        times = [found[name]["timestamp_micros"] for name in self.moments]
        assert all(one < next_ for one, next_ in pairwise(times)), times
        check_no_future(emulator, within=within)
        return found


def hand_in(daemon: Daemon, *events: dict[str, Any]) -> None:
    """Post events to the agent and expect that all are taken."""
    assert post(daemon.setup.http_port, "/events", list(events)) == 202


def arrived(emulator: Emulator) -> Arrived:
    """What GA4 counted, by the events' names; each was counted once."""
    events = emulator.events()
    found = {event["name"]: event for event in events}
    assert len(found) == len(events), [event["name"] for event in events]
    return found


def check_no_future(emulator: Emulator, *, within: float) -> None:
    """No time was ahead of the endpoint's own clock by more than so many seconds."""
    for request in emulator.requests():
        for event in request.events:
            assert event["timestamp_micros"] <= (request.at + within) * SECOND, event["name"]
