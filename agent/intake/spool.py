"""Spool folder in: read files that were renamed into it, commit their events, remove them.

How far a file has been read is committed with its events, so that a kill between commit and
removal repeats nothing, and a file of any length needs little memory. What is no file of events
is moved to ``bad/`` with the reason beside it; a line or element that is no event becomes a
dead letter.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote_to_bytes

from agent.clock import Clock
from agent.intake import spool_file
from agent.intake.door import Door, Full
from agent.intake.parse import Shape
from agent.intake.sorting import Message
from agent.intake.spool_file import BadFile
from agent.intake.spool_folder import BAD, SpoolFolder, UnusableError, identity_of, shown
from agent.progress import Progress
from agent.queue.event_queue import SourceState

log = logging.getLogger(__name__)

SOURCE = "spool"
POLL = 1.0  # seconds between looks
FULL_WAIT = 2.0  # seconds between attempts while the queue is full
BATCH_DOCUMENTS = 100  # step by step, each takes five fsyncs: a batch must not look like a hang
BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a file has been committed.

    ``identity`` tells it from others that come to have the same name, ``changed_ns`` also from
    a copy with the same inode and time of writing, put there while nobody looked.
    """

    identity: str
    changed_ns: int
    done: int

    @classmethod
    def of(cls, found: os.stat_result, done: int) -> "Mark":
        """The mark of a file."""
        return cls(identity_of(found), found.st_ctime_ns, done)

    @classmethod
    def read(cls, text: str) -> "Mark | None":
        """The mark that ``str`` wrote; None for a damaged one: rather a repeat than a death."""
        try:
            identity, changed_ns, done = text.split()
            return cls(identity, int(changed_ns), int(done))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.identity} {self.changed_ns} {self.done}"


@dataclass(slots=True)
class _Batch:
    """Documents of one file or many that share a commit."""

    documents: list[tuple[str, Mark, Message]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.documents) >= BATCH_DOCUMENTS or self.size >= BATCH_BYTES

    def add(self, name: str, mark: Mark, message: Message) -> None:
        self.documents.append((name, mark, message))
        self.size += len(message.payload)


class SpoolSource:
    """Takes what is in a folder, in the order of the names."""

    def __init__(
        self,
        *,
        door: Door,
        clock: Clock,
        directory: Path,
        marks: Callable[[], Mapping[str, str]],
        poll: float = POLL,
    ) -> None:
        """``marks``: what was committed with the events, by file name. ``poll``: seconds."""
        self._door = door
        self._clock = clock
        self._folder = SpoolFolder(directory)
        self._read_marks = marks
        self._poll = poll
        self._marks: dict[str, Mark] = {}
        self._gone: list[str] = []  # removed for good: their marks leave with the next commit
        self._suspects: dict[str, str] = {}  # by name: the identity of what looked wrong once
        self._skipped: set[str] = set()  # names that this look could not take to their end
        self._troubles: dict[str, str] = {}  # by name: why it cannot be taken
        self._full = False

    @property
    def problem(self) -> str | None:
        """Which file cannot be taken, and why; None when none is in the way."""
        troubles = [*self._troubles.values()]
        others = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
        return troubles[0] + others if troubles else None

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Take files until ``stop``. Raises SourceUnavailable."""
        self.prepare()
        while not stop.is_set():
            self.take_once(stop, progress)
            stop.wait(FULL_WAIT if self._full else self._poll)

    def prepare(self) -> None:
        """Make the folder if need be; find out what the last run left. Raises SourceUnavailable."""
        self._folder.prepare()
        known = {_name(key): Mark.read(text) for key, text in self._read_marks().items()}
        self._marks = {name: mark for name, mark in known.items() if mark}
        self._gone = [name for name, mark in known.items() if not mark]

    def take_once(self, stop: threading.Event, progress: Progress) -> None:
        """Take what is in the folder now. Raises SourceUnavailable when it cannot be read."""
        self._full = False
        self._skipped.clear()
        progress.beat()
        names = self._folder.names()
        self._forget_absent(names)
        batch = _Batch()
        for name in names:
            progress.beat()
            for mark, message in self._documents(name):
                if batch.is_full:
                    progress.beat()
                    if not self._commit(batch) or stop.is_set():
                        return
                    batch = _Batch()
                batch.add(name, mark, message)
            if name not in self._skipped:
                batch.finished.append(name)
            if stop.is_set():
                break
        self._commit(batch)

    # -- reading ----------------------------------------------------------------------------

    def _documents(self, name: str) -> Iterator[tuple[Mark, Message]]:
        """What of the file is not yet committed. If that is not all of it, why not is noted."""
        identity = ""
        try:
            with self._folder.opened(name) as (file, found):
                identity = identity_of(found)
                if self._is_unfinished(name, file, found):
                    self._skipped.add(name)
                    return
                yield from self._read(name, file, found)
        except FileNotFoundError:
            self._skipped.add(name)  # gone in the meantime: not ours to remove
        except BadFile as bad:
            self._suspect(name, identity, str(bad))
        except (UnusableError, OSError) as error:
            self._cannot(name, f"cannot read {self._folder.shown(name)}: {_reason(error)}")

    def _read(
        self, name: str, file: BinaryIO, found: os.stat_result
    ) -> Iterator[tuple[Mark, Message]]:
        mark = self._marks.get(name)
        done = mark.done if mark and mark == Mark.of(found, mark.done) else 0
        written = self._clock.stamp_of(max(0, found.st_mtime_ns // 1000))
        documents = spool_file.documents(file, name, size=found.st_size, done=done)
        for payload, position in documents:
            fresh = Mark.of(found, position)
            message = Message(
                source=SOURCE,
                payload=payload,
                shape=Shape.SPOOL,
                answerable=False,
                state=(SourceState(SOURCE, _key(name), str(fresh)),),
                stamp=written,
            )
            self._troubles.pop(name, None)
            yield fresh, message

    def _is_unfinished(self, name: str, file: BinaryIO, found: os.stat_result) -> bool:
        looks_so = spool_file.looks_unfinished(file, name, found)
        return looks_so and not self._seen_before(name, identity_of(found))

    def _seen_before(self, name: str, identity: str) -> bool:
        """Whether it was the same at the last look: nobody is writing it under its final name."""
        before = self._suspects.get(name)
        self._suspects[name] = identity
        return before == identity

    def _suspect(self, name: str, identity: str, reason: str) -> None:
        """Bad is what stays as it is."""
        self._skipped.add(name)
        if not self._seen_before(name, identity):
            return
        try:
            moved = self._folder.set_aside(name, identity, reason)
        except (UnusableError, OSError) as error:
            path = self._folder.shown(name)
            self._cannot(name, f"cannot move {path} to {BAD}/: {_reason(error)}; {reason}")
            return
        if moved:
            self._door.refuse("bad_file")
            log.warning("spool: moved %s to %s/: %s", shown(name), BAD, reason)

    def _cannot(self, name: str, trouble: str) -> None:
        if self._troubles.get(name) != trouble:
            log.warning("spool: %s", trouble)
        self._troubles[name] = trouble
        self._skipped.add(name)

    # -- committing -------------------------------------------------------------------------

    def _commit(self, batch: _Batch) -> bool:
        """Commit, then remove what is done. False: the queue is full, the rest stays."""
        gone, messages = self._gone, [message for _, _, message in batch.documents]
        if messages and gone:
            forget = tuple(SourceState(SOURCE, _key(name), None) for name in gone)
            messages[0] = replace(messages[0], state=(*forget, *messages[0].state))
        answers = self._door.admit_many(messages) if messages else []
        if answers and not isinstance(answers[0], Full):
            self._gone = []
        waiting: set[str] = set()
        for (name, mark, _), answer in zip(batch.documents, answers, strict=True):
            if isinstance(answer, Full):
                waiting.add(name)
            else:
                self._marks[name] = mark
        self._remove([name for name in batch.finished if name not in waiting])
        self._full = bool(waiting)
        return not waiting

    def _remove(self, names: list[str]) -> None:
        """Remove files whose events are on the disk."""
        removed: list[str] = []
        for name in names:
            try:
                if self._folder.remove(name, self._marks[name].identity):
                    removed.append(name)
            except OSError as error:
                trouble = f"cannot remove {self._folder.shown(name)}: {error.strerror}"
                self._cannot(name, f"{trouble}; what is in it was taken")
        self._forget(removed)

    # -- marks ------------------------------------------------------------------------------

    def _forget_absent(self, names: list[str]) -> None:
        """Somebody took a file away; or it was removed right before the last run was killed."""
        present = set(names)
        for known in (self._suspects, self._troubles):
            for name in known.keys() - present:
                del known[name]
        self._forget([name for name in self._marks if name not in present])

    def _forget(self, names: list[str]) -> None:
        """Let go of the marks of files that are gone, once that lasts.

        After a power cut a file could be back.
        """
        if not names:
            return
        try:
            self._folder.sync()
        except OSError as error:
            log.warning("cannot make removals from the spool folder last: %s", error.strerror)
            return
        for name in names:
            del self._marks[name]
        self._gone += names


def _key(name: str) -> str:
    """The name as the queue can keep it: names may hold bytes that are no UTF-8."""
    return quote(os.fsencode(name))


def _name(key: str) -> str:
    return os.fsdecode(unquote_to_bytes(key))


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error)
