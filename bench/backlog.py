"""Whether a queue of a million events is as quick as one of ten thousand.

    python bench/backlog.py [--large 1000000] [--small 10000] [--rounds 400]

Puts, evicting puts, leases and acknowledgements of both queues take turns in one run, so that
whatever else this machine does meets both. Prints medians and their ratios; exits with 1 when a
ratio is over 1.2.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.event import Event, Sender, Stamp
from agent.queue.event_queue import RESERVE, EventQueue

MOST = 1.2
FILL = 5000  # events a commit while the queues are filled
ROOM = 1 << 30


def event(number: int) -> Event:
    """An event of a usual size."""
    return Event(
        name="tap",
        params={"text": "x" * 200},
        stream="main",
        sender=Sender(client_id="1.1"),
        stamp=Stamp(1_800_000_000_000_000 + number, number, "boot", trusted=True),
        event_id=f"e{number:016x}",
    )


class Bench:
    """One queue of a size, and what was measured of it, in seconds."""

    def __init__(self, directory: Path, size: int) -> None:
        self.size = size
        self.next = size
        self._directory = directory
        self.measured: dict[str, list[float]] = {}
        self.queue = self._filled()

    def _filled(self) -> EventQueue:
        queue = EventQueue.open(self._directory, max_bytes=ROOM, on_full="evict")
        for first in range(0, self.size, FILL):
            last = min(first + FILL, self.size)
            queue.put_many([event(number) for number in range(first, last)])
        return queue

    def reopen(self) -> None:
        """Close it and open it again."""
        self.queue.close()
        self.time("open", self._open)

    def _open(self) -> None:
        self.queue = EventQueue.open(self._directory, max_bytes=ROOM, on_full="evict")

    def put(self) -> None:
        """One event, as a publisher hands it in."""
        self.next += 1
        self.queue.put_many([event(self.next)])

    def deliver(self) -> None:
        """What a connection does with each request."""
        ids = self.lease()
        self.time("ack 25", lambda: self.queue.ack_many(ids))

    def lease(self) -> list[int]:
        """Lease a batch, timed."""
        started = time.perf_counter()
        ids = [row.id for row in self.queue.lease("main", limit=25)]
        self.measured.setdefault("lease 25", []).append(time.perf_counter() - started)
        return ids

    def fill_up(self) -> None:
        """Leave no room: from now on each put evicts."""
        self.queue.max_bytes = self.queue.used_bytes * 10 // 9 + RESERVE
        while not self.queue.books.dropped.get("evicted"):
            self.queue.put_many([event(self.next + n) for n in range(100)])
            self.next += 100

    def time(self, name: str, work: Callable[[], None]) -> None:
        """Do it, and note how long it took."""
        started = time.perf_counter()
        work()
        self.measured.setdefault(name, []).append(time.perf_counter() - started)

    def median(self, name: str) -> float:
        """Seconds that it usually took."""
        return statistics.median(self.measured[name])


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=400)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ga4-agent-bench-"))
    try:
        return compare(directory, chosen)
    finally:
        shutil.rmtree(directory)


def compare(directory: Path, chosen: argparse.Namespace) -> int:
    """Measure both, and print what was found."""
    benches = []
    for size in (chosen.small, chosen.large):
        (directory / str(size)).mkdir()
        benches.append(Bench(directory / str(size), size))
    for bench in benches:
        bench.reopen()
    for _ in range(chosen.rounds):
        for bench in benches:
            bench.time("put 1", bench.put)
            bench.deliver()
    for bench in benches:
        bench.fill_up()
    for _ in range(chosen.rounds):
        for bench in benches:
            bench.time("evicting put 1", bench.put)
    return report(*benches)


def report(small: Bench, large: Bench) -> int:
    """Print medians and ratios; 1 if one is too high. A start looks through the whole file."""
    print(f"{'':16}{small.size:>12,}{large.size:>12,}   ratio")
    worst = 0.0
    for name in small.measured:
        ratio = large.median(name) / small.median(name)
        print(
            f"{name:16}{small.median(name) * 1e3:>9.2f} ms{large.median(name) * 1e3:>9.2f} ms"
            f"{ratio:>8.2f}"
        )
        worst = max(worst, ratio if name != "open" else 0.0)
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
