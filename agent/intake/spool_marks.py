"""How far the files of a spool folder were committed, and when that may be forgotten.

The life of a mark: it is *kept* in the queue, in one commit with the file's events. When the file
is gone for good the mark is *dropped*, and the next commit *forgets* it in the queue too.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from agent.intake.spool_file import START, Place
from agent.queue.entries import SourceState


@dataclass(frozen=True, slots=True)
class Mark:
    """A file as it was when it was read, times in nanoseconds, and up to where its events are safe.

    Name and inode do not make a file: a new one often gets the inode of the one just removed.
    """

    inode: int
    size: int
    written_ns: int
    changed_ns: int
    place: Place

    @classmethod
    def of(cls, found: os.stat_result, place: Place) -> "Mark":
        """The mark of a file."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, place)

    @classmethod
    def read(cls, text: str) -> "Mark | None":
        """The mark that ``str`` wrote; None for a damaged one: rather a repeat than a death."""
        try:
            inode, size, written_ns, changed_ns, done, check = map(int, text.split())
        except ValueError:
            return None
        return cls(inode, size, written_ns, changed_ns, Place(max(0, done), check))

    def __str__(self) -> str:
        numbers = (self.inode, self.size, self.written_ns, self.changed_ns)
        return " ".join(map(str, (*numbers, self.place.done, self.place.check)))

    def is_untouched(self, found: os.stat_result) -> bool:
        """Whether nothing at all was done to the file since, not even a rename."""
        return (self.inode, self.changed_ns) == (found.st_ino, found.st_ctime_ns)

    def goes_on(self, found: os.stat_result) -> bool:
        """Whether it is the same file, with the same content or with more behind it.

        A change of mode or owner leaves size and time of writing. The same size with another time
        is the same event written once more over itself.
        """
        same = (self.size, self.written_ns) == (found.st_size, found.st_mtime_ns)
        return self.inode == found.st_ino and (same or found.st_size > self.size)


class Marks:
    """The marks of one folder, by file name.

    Those of other folders stay in the queue until their folder is the configured one again.
    """

    def __init__(self, *, source: str, folder: Path, kept: Mapping[str, str]) -> None:
        """``source``: whose state they are. ``kept``: what the queue holds of it, by key."""
        self._source = source
        self._folder = folder
        self._marks: dict[str, Mark] = {}
        self._forgettable: list[str] = []  # keys
        for key, text in kept.items():
            path = Path(os.fsdecode(unquote_to_bytes(key)))
            if path.is_absolute() and path.parent != folder:
                continue
            mark = Mark.read(text)
            if mark is None or path.parent != folder:
                self._forgettable.append(key)
            else:
                self._marks[path.name] = mark
        self._unseen = set(self._marks)  # nobody has looked at these files since the last run

    def place(self, name: str, found: os.stat_result) -> Place:
        """Where to go on in the file, if what lies before still has the same checksum.

        While nobody looked, a file could be removed and one with the same inode, times of writing
        and content take its name: then only one that is quite untouched is taken as known. Events
        that come twice are preferred to events that are lost.
        """
        mark = self._marks.get(name)
        if mark is None:
            return START
        if mark.is_untouched(found):
            self._unseen.discard(name)
        known = name not in self._unseen and mark.goes_on(found)
        return mark.place if known else START

    def state(self, name: str, mark: Mark) -> SourceState:
        """The mark as a commit keeps it."""
        return SourceState(self._source, self._key(name), str(mark))

    def keep(self, name: str, mark: Mark) -> None:
        """It was committed."""
        self._marks[name] = mark
        self._unseen.discard(name)

    def absent(self, present: Iterable[str]) -> list[str]:
        """Names of files that are marked and not there any more."""
        return list(self._marks.keys() - set(present))

    def drop(self, names: Iterable[str]) -> None:
        """These files are gone, and no power cut can bring them back."""
        for name in names:
            del self._marks[name]
            self._unseen.discard(name)
            self._forgettable.append(self._key(name))

    @property
    def forgettable(self) -> tuple[SourceState, ...]:
        """What the next commit is to forget: a commit for that alone would wear the card."""
        return tuple(SourceState(self._source, key, None) for key in self._forgettable)

    def forgot(self) -> None:
        """What was forgettable was forgotten."""
        self._forgettable.clear()

    def _key(self, name: str) -> str:
        """The path as the queue can keep it: names may hold bytes that are no UTF-8."""
        return quote(os.fsencode(self._folder / name))
