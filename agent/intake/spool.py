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

from agent.clock import Clock
from agent.intake import spool_file
from agent.intake.door import Answer, Door, Full
from agent.intake.message import Message
from agent.intake.parse import Shape
from agent.intake.spool_file import BadFile
from agent.intake.spool_folder import BAD, BAD_MAX, SpoolFolder, UnusableError, identity_of, shown
from agent.intake.spool_marks import Mark, Marks
from agent.progress import Progress

log = logging.getLogger(__name__)

SOURCE = "spool"
POLL = 1.0  # seconds between looks
MEASURE_EVERY = 10  # looks: files that wait take room from the queue, which is not that hasty
FULL_WAIT = 2.0  # seconds between attempts while the queue is full
BATCH_DOCUMENTS = 100  # step by step, each takes five fsyncs: a batch must not look like a hang
BATCH_BYTES = 1024 * 1024
TOLD_MAX = 100  # reasons that are remembered as told


@dataclass(frozen=True, slots=True)
class _Document:
    """One document of a file; ``mark``: how far the file is committed with it."""

    name: str
    mark: Mark
    message: Message


@dataclass(slots=True)
class _Batch:
    """Documents of one file or many that share a commit.

    ``finished``: the identities of files that end in it, by name.
    """

    documents: list[_Document] = field(default_factory=list)
    finished: dict[str, str] = field(default_factory=dict)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.documents) >= BATCH_DOCUMENTS or self.size >= BATCH_BYTES

    def add(self, document: _Document) -> None:
        self.documents.append(document)
        self.size += len(document.message.payload)


class SpoolSource:
    """Takes what is in a folder, in the order of the names."""

    def __init__(
        self,
        *,
        door: Door,
        clock: Clock,
        directory: Path,
        marks: Callable[[], Mapping[str, str]],
        state_directory: Path | None = None,
        poll: float = POLL,
        bad_max: int = BAD_MAX,
        on_measured: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """Take the parts.

        ``marks``: what was committed with the events, by key. ``state_directory``: must not lie
        in ``directory``. ``poll``: seconds. ``bad_max``: bytes that bad files may take.
        ``on_measured`` hears now and then how many bytes everything in the folder takes.
        """
        self._door = door
        self._clock = clock
        self._folder = SpoolFolder(directory, state_directory=state_directory, bad_max=bad_max)
        self._on_measured = on_measured
        self._looks = 0
        self._kept_marks = marks
        self._poll = poll
        self._marks = Marks(source=SOURCE, folder=directory, kept={})
        self._suspects: dict[str, str] = {}  # by name: the identity of what looked wrong once
        self._ended: dict[str, str] = {}  # by name: the identity of what was read to its end
        self._troubles: dict[str, str] = {}  # by name: why it cannot be taken
        self._told: set[str] = set()  # why files were moved to bad/
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
        kept = self._kept_marks()
        self._marks = Marks(source=SOURCE, folder=self._folder.path, kept=kept)

    def take_once(self, stop: threading.Event, progress: Progress) -> None:
        """Take what is in the folder now. Raises SourceUnavailable when it cannot be read."""
        self._full = False
        self._ended.clear()
        progress.beat()
        names = self._folder.names()
        if self._looks % MEASURE_EVERY == 0:
            self._on_measured(self._folder.size())
        self._looks += 1
        self._notice_absent(names)
        batch = _Batch()
        for name in names:
            for document in self._beating(name, stop, progress):
                if batch.is_full:
                    if not self._commit(batch) or stop.is_set():
                        return
                    batch = _Batch()
                batch.add(document)
            if name in self._ended:
                batch.finished[name] = self._ended[name]
            if stop.is_set():
                break
        self._commit(batch)

    def _beating(self, name: str, stop: threading.Event, progress: Progress) -> Iterator[_Document]:
        """The documents of a file. What has none for long is no hang, and hears a stop.

        A line that a stop cuts short is begun again at the next start: it costs time, no events.
        """
        progress.beat()
        for document in self._documents(name):
            progress.beat()
            if document is not None:
                yield document
            elif stop.is_set():
                return

    # -- reading ----------------------------------------------------------------------------

    def _documents(self, name: str) -> Iterator[_Document | None]:
        """What of the file is not yet committed. If that is not all of it, why not is noted."""
        identity = ""
        try:
            with self._folder.opened(name) as (file, found):
                identity = identity_of(found)
                if self._is_unfinished(name, file, found):
                    return
                yield from self._read(name, file, found)
                self._ended[name] = identity
        except FileNotFoundError:
            pass  # gone in the meantime: not ours to remove
        except BadFile as bad:
            self._suspect(name, identity, str(bad))
        except (UnusableError, OSError) as error:
            self._cannot(name, f"cannot read {self._folder.shown(name)}: {_reason(error)}")

    def _read(self, name: str, file: BinaryIO, found: os.stat_result) -> Iterator[_Document | None]:
        written = self._clock.stamp_of(max(0, found.st_mtime_ns // 1000))
        after = self._marks.place(name, found)
        for document in spool_file.documents(file, name, size=found.st_size, after=after):
            if document is None:
                yield None
                continue
            payload, place = document
            mark = Mark.of(found, place)
            message = Message(
                source=SOURCE,
                payload=payload,
                shape=Shape.SPOOL,
                answerable=False,
                can_wait=True,
                state=(self._marks.state(name, mark),),
                stamp=written,
                keep=spool_file.LINE_MAX,
            )
            self._troubles.pop(name, None)
            yield _Document(name, mark, message)

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
            self._tell_moved(name, reason)

    def _tell_moved(self, name: str, reason: str) -> None:
        """Once for each reason: a program that writes nonsense every second must not fill the log.

        Each file has its reason beside it, and the status counts them.
        """
        if reason in self._told:
            return
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told.add(reason)
        told = "spool: moved %s to %s/: %s; others for the same reason are moved without a word"
        log.warning(told, shown(name), BAD, reason)

    def _cannot(self, name: str, trouble: str) -> None:
        if self._troubles.get(name) != trouble:
            log.warning("spool: %s", trouble)
        self._troubles[name] = trouble

    # -- committing -------------------------------------------------------------------------

    def _commit(self, batch: _Batch) -> bool:
        """Commit, then remove what is done. False: the queue is full, the rest stays."""
        waiting: set[str] = set()
        for document, answer in zip(batch.documents, self._admit(batch), strict=True):
            if isinstance(answer, Full):
                waiting.add(document.name)
            else:
                self._marks.keep(document.name, document.mark)
        self._remove({name: i for name, i in batch.finished.items() if name not in waiting})
        self._full = bool(waiting)
        return not waiting

    def _admit(self, batch: _Batch) -> list[Answer]:
        messages = [document.message for document in batch.documents]
        if not messages:
            return []
        # Before what the message itself keeps: that can be of a new file with an old name.
        state = (*self._marks.forgettable, *messages[0].state)
        answers = self._door.admit_many([replace(messages[0], state=state), *messages[1:]])
        if not isinstance(answers[0], Full):
            self._marks.forgot()
        return answers

    def _remove(self, finished: Mapping[str, str]) -> None:
        """Remove files whose events are on the disk."""
        removed: list[str] = []
        for name, identity in finished.items():
            try:
                if self._folder.remove(name, identity):
                    removed.append(name)
            except OSError as error:
                trouble = f"cannot remove {self._folder.shown(name)}: {error.strerror}"
                self._cannot(name, f"{trouble}; what is in it was taken")
        self._drop(removed)

    def _notice_absent(self, names: list[str]) -> None:
        """Somebody took a file away; or it was removed right before the last run was killed."""
        present = set(names)
        for known in (self._suspects, self._troubles):
            for name in known.keys() - present:
                del known[name]
        self._drop(self._marks.absent(present))

    def _drop(self, names: list[str]) -> None:
        """Drop the marks of files that are gone, once that lasts.

        After a power cut a file could be back.
        """
        if not names:
            return
        try:
            self._folder.sync()
        except OSError as error:
            log.warning("cannot make removals from the spool folder last: %s", error.strerror)
            return
        self._marks.drop(names)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error)
