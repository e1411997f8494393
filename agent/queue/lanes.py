"""What waits and what is leased, in memory: a crash sends again what was leased anyway."""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

WINDOW = 1000  # rows looked at to fill a batch with one sender's events

Lane = tuple[str, int]  # stream and priority
Waiting = Generator[tuple[int, str], None, None]  # ids of rows and their senders, in order


@dataclass(slots=True)
class _Mark:
    """How a lane stands. ``ready`` is below zero while a commit is not counted in yet."""

    ready: int = 0
    before: int = 0  # every row of the lane with an id up to here is leased or gone


class Lanes:
    """The waiting rows of each stream and priority. Any thread may call any method.

    Its lock is taken before those of the queue, and never held while something is written.
    """

    def __init__(self, *, waiting: Callable[[int, str, int], Waiting]) -> None:
        """``waiting``: the rows behind an id, of a stream and priority."""
        self._waiting = waiting
        self._marks: dict[Lane, _Mark] = {}
        self._leased: dict[int, Lane] = {}
        self._lock = threading.Lock()

    def ready(self, stream: str) -> int:
        """How many events of the stream wait and are not leased."""
        with self._lock:
            return sum(mark.ready for (name, _), mark in self._marks.items() if name == stream)

    def add(self, numbers: Mapping[Lane, int]) -> None:
        """So many more wait, behind all others."""
        with self._lock:
            for lane, number in numbers.items():
                self._mark(lane).ready += number

    def pick(self, lane: Lane, limit: int) -> list[int]:
        """Lease up to ``limit`` rows of the lane's first sender."""
        with self._lock:
            mark = self._marks.get(lane)
            if mark is None or not mark.ready:
                return []
            ids = self._of_first_sender(lane, mark, limit)
            self._leased.update(dict.fromkeys(ids, lane))
            mark.ready -= len(ids)
            return ids

    def claim(self, look: Callable[[], Iterable[tuple[Any, ...]]]) -> list[int]:
        """Lease the rows that ``look`` sees waiting (id, stream, priority) and nobody has."""
        with self._lock:
            ids = []
            for row_id, *lane in look():
                if row_id not in self._leased:
                    self._leased[row_id] = (lane[0], lane[1])
                    self._mark((lane[0], lane[1])).ready -= 1
                    ids.append(row_id)
            return ids

    def unleased(self, ids: Iterable[int]) -> list[int]:
        """Those of the rows that nobody has."""
        with self._lock:
            return [row_id for row_id in ids if row_id not in self._leased]

    def release(self, ids: Sequence[int]) -> None:
        """Leased rows wait again, in their old place."""
        with self._lock:
            for row_id in ids:
                self._wait_again(row_id, self._leased.pop(row_id))

    def readmit(self, rows: Iterable[tuple[int, Lane]]) -> None:
        """Rows that did not wait any more wait again, in their old place."""
        with self._lock:
            for row_id, lane in rows:
                self._wait_again(row_id, lane)

    def forget(self, ids: Iterable[int]) -> None:
        """Leased rows have gone."""
        with self._lock:
            for row_id in ids:
                self._leased.pop(row_id, None)

    def _mark(self, lane: Lane) -> _Mark:
        return self._marks.setdefault(lane, _Mark())

    def _wait_again(self, row_id: int, lane: Lane) -> None:
        mark = self._mark(lane)
        mark.ready += 1
        mark.before = min(mark.before, row_id - 1)

    def _of_first_sender(self, lane: Lane, mark: _Mark, limit: int) -> list[int]:
        """Ids of the lane's first unleased sender, in order, from a bounded window."""
        ids: list[int] = []
        first: str | None = None
        looked_at = 0
        with closing(self._waiting(mark.before, *lane)) as rows:
            for row_id, sender in rows:
                leased = row_id in self._leased
                if first is None and leased:
                    continue
                if first is None:
                    first = sender
                    mark.before = row_id - 1
                looked_at += 1
                if sender == first and not leased:
                    ids.append(row_id)
                if len(ids) == limit or looked_at == WINDOW:
                    break
        return ids
