"""Promise 1: acknowledged means on the disk, whenever the power goes."""

import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.emulator import Fault
from agent.queue.event_queue import FILE_NAME
from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import ids_of, mqtt_program, post
from tests.waiting import until

CUTS = int(os.environ.get("GA4_AGENT_POWER_CUTS", "100"))
CONTROL_CUTS = 10
IN_FLIGHT = 4 * 25  # events that a cut can catch between sending and recording
MQTT_IDS = 10_000_000  # where the numbers of what comes over MQTT begin


class Programs:
    """Threads that post numbered events, and know which were acknowledged.

    Each event brings its own ``event_id``, so that handing it in again is recognised.
    """

    def __init__(self, *, port: int, numbers: Iterator[int]) -> None:
        self._port = port
        self._numbers = numbers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: list[int] = []

    def post(self, number: int) -> int:
        body = {"name": "tap", "params": {"id": number}, "event_id": f"tap-{number}"}
        return post(self._port, "/events", body)

    @contextmanager
    def working(self, threads: int) -> Iterator[None]:
        self._stop.clear()
        crew = [threading.Thread(target=self._work) for _ in range(threads)]
        for each in crew:
            each.start()
        try:
            yield
        finally:
            self._stop.set()
            for each in crew:
                each.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            try:
                taken = self.post(number) == 202
            except OSError:  # the power is gone
                return
            if taken:
                with self._lock:
                    self.acknowledged.append(number)


def threads_rest(pid: int) -> bool:
    """Whether no thread of a stopped process runs: each is stopped, or waits for the disk."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            states.append(stat.read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return all(state in "TtDZX" for state in states)


def cut_power(disk, daemon) -> None:
    """First the agent is frozen: an answer after the cut would be one that no machine can give."""
    os.kill(daemon.pid, signal.SIGSTOP)
    until(lambda: threads_rest(daemon.pid), "the agent to freeze")
    disk.cut()
    daemon.kill()
    disk.unmount()
    disk.mount()


def integrity(state: Path) -> str:
    connection = sqlite3.connect(state / FILE_NAME)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


def stored(state: Path) -> set[int]:
    """The numbers of the events that are in the queue's file."""
    connection = sqlite3.connect(state / FILE_NAME)
    try:
        rows = connection.execute("SELECT CAST(data AS BLOB) FROM ack_queue_default").fetchall()
    finally:
        connection.close()
    return {json.loads(data[9:])["params"]["id"] for (data,) in rows}


def stored_if_any(state: Path) -> set[int]:
    """Likewise; without its header, its table or itself the file holds nothing."""
    try:
        return stored(state)
    except sqlite3.DatabaseError:
        return set()


def work_until(programs, seconds: float, more: int) -> None:
    """Until so many more were acknowledged, and then for a random moment."""
    before = len(programs.acknowledged)
    until(lambda: len(programs.acknowledged) >= before + more, f"{more} acknowledgements")
    threading.Event().wait(seconds)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_acknowledged_is_lost_over_many_power_cuts(
    make_disk, make_daemon, mqtt_setup, broker, emulator
):
    disk = make_disk()
    daemon = make_daemon(replace(mqtt_setup, state=disk.path / "state"))
    rng = random.Random(2026)
    numbers = itertools.count(1)
    published = itertools.count(MQTT_IDS)
    programs = Programs(port=daemon.setup.http_port, numbers=numbers)
    messages: set[int] = set()
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    emulator.fail(Fault("delay", seconds=0.05))
    with mqtt_program(broker.port) as program:
        for _cut in range(CUTS):
            with programs.working(threads=3):
                some = list(itertools.islice(published, 5))
                program.publish(some)
                messages.update(some)
                work_until(programs, rng.uniform(0, 0.05), more=10)
                cut_power(disk, daemon)
            assert integrity(daemon.setup.state) == "ok"
            there = stored(daemon.setup.state) | set(ids_of(emulator.events()))
            lost = set(programs.acknowledged) - there
            assert not lost, f"{len(lost)} of {len(programs.acknowledged)} acknowledged are gone"
            assert daemon.books().balanced
            daemon.start()
    emulator.recover()
    # What was acknowledged is known again after the cuts: handed in once more, it is no new event.
    daemon.drained()
    before = daemon.books().received
    for number in rng.sample(programs.acknowledged, 20):
        assert programs.post(number) == 202
    assert daemon.drained().received == before
    arrived = Counter(ids_of(emulator.events()))
    assert set(programs.acknowledged) | messages <= arrived.keys()
    assert sum(arrived.values()) - len(arrived) <= IN_FLIGHT * CUTS
    assert_one_device_with_rising_sessions(emulator.requests())


def assert_one_device_with_rising_sessions(requests) -> None:
    """Identity and sessions survived, or were made anew without harm."""
    bodies = [r.body for r in requests if r.path == "/mp/collect"]
    assert len({body["client_id"] for body in bodies}) == 1
    times = sorted(
        (event["timestamp_micros"], event["params"]["session_id"])
        for body in bodies
        for event in body["events"]
    )
    sessions = [session for _, session in times]
    assert sessions == sorted(sessions)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_queue_that_does_not_wait_for_the_disk_loses(make_disk, make_daemon, setup, emulator):
    """The test above can fail: with synchronous=OFF the same cuts lose what was acknowledged."""
    disk = make_disk()
    daemon = make_daemon(replace(setup, state=disk.path / "state"))
    daemon.program = (sys.executable, str(ROOT / "tests/system/careless_agent.py"))
    programs = Programs(port=daemon.setup.http_port, numbers=itertools.count(1))
    emulator.stop()
    for _cut in range(CONTROL_CUTS):
        daemon.start()
        with programs.working(threads=3):
            work_until(programs, 0.02, more=30)
            cut_power(disk, daemon)
        if set(programs.acknowledged) - stored_if_any(daemon.setup.state):
            (daemon.setup.state / FILE_NAME).unlink(missing_ok=True)  # its books cannot balance
            return
    pytest.fail(f"{CONTROL_CUTS} cuts lost nothing: they are none")
