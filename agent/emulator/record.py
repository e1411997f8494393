"""What the emulator received: in memory for tests, as NDJSON for other programs."""

import json
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from agent.emulator.collect import HIDDEN, Judgement, events_in, parse
from agent.emulator.wording import Message

_SECRET_IN_TEXT = re.compile(r'(api_secret"?\s*[=:]\s*"?)[^&\s",}]*', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What stands before a request's body; ``query`` still holds the secret."""

    method: str
    path: str
    query: Mapping[str, str]

    @classmethod
    def of(cls, method: str, target: str) -> Self:
        """Split the target of a request line."""
        path, _, query = target.partition("?")
        return cls(method=method, path=path, query=dict(parse_qsl(query, keep_blank_values=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request as it was received, without its secret.

    ``at`` is in wall seconds. ``body`` is the parsed JSON; ``raw`` is the text of a body that is
    none, and both are None when no body was read. ``answered`` is the status, or the kind of the
    fault that stood in its way. ``counted`` says that GA4 took the request, so that its events
    are in the reports, whether or not the sender was told. It is False for one that GA4 answers
    with 204 and drops as a whole: without a secret, or without an id that says whose it is.

    ``violations``: what GA4 would have ignored or dropped of a request that it took, in silence.
    ``moved``: the times in it, as paths, that GA4 would have moved to 72 hours ago; they stand in
    ``body`` as they came.
    """

    at: float
    method: str
    path: str
    query: Mapping[str, str | bool]
    body: Any
    raw: str | None
    answered: int | str
    counted: bool
    violations: tuple[Message, ...] = ()
    moved: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        head: Head,
        body: bytes | None,
        *,
        at: float,
        answered: int | str,
        taken: Judgement | None,
    ) -> Self:
        """Record a request.

        ``body`` is None if it was not read; ``taken`` is what GA4 made of it, if it took it.
        """
        document, raw = _read(body)
        return cls(
            at=at,
            method=head.method,
            path=_without_secret(head.path),
            query=_safe_query(head.query),
            body=document,
            raw=raw,
            answered=answered,
            counted=taken is not None and taken.countable,
            violations=taken.messages if taken else (),
            moved=taken.moved if taken else (),
        )

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """The events that GA4 counted."""
        return events_in(self.body) if self.counted else ()

    def line(self) -> bytes:
        """Return the request as a line of NDJSON.

        ``raw``, ``violations`` and ``moved`` only where there are any.
        """
        entry = asdict(self) | {"violations": [each.document() for each in self.violations]}
        for name in ("raw", "violations", "moved"):
            if getattr(self, name) in (None, ()):
                del entry[name]
        return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


class Record:
    """All that was received, the newest ``keep`` requests of it in memory.

    Safe to use from any thread. Requests are written to ``path`` (appended, one write a line)
    between ``open`` and ``close``.
    """

    def __init__(self, *, path: Path | None, keep: int) -> None:
        self._path = path
        self._file: FileIO | None = None
        # Reentrant, because a predicate of wait_for asks the record while it is held.
        self._changed = threading.Condition()
        self._requests: deque[Recorded] = deque(maxlen=keep)
        self._attempts = 0
        self._attempts_at_mark = 0
        self._counted_events = 0
        self._violations: Counter[str] = Counter()
        self._moved = 0

    def open(self) -> None:
        """Open the file; OSError, with what to do, if that cannot be done."""
        if self._path is None:
            return
        try:
            # Unbuffered: a reader sees each line at once, and whole.
            self._file = FileIO(self._path, "a")
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot record into {self._path}: {error.strerror}; choose another with --record",
            ) from error

    def close(self) -> None:
        """Close the file; what is in memory stays."""
        with self._changed:
            file, self._file = self._file, None
        if file is not None:
            file.close()

    def add(self, recorded: Recorded) -> None:
        """Take a request in, on file first, so that who is told of it finds it there."""
        line = b"" if self._path is None else recorded.line()
        with self._changed:
            self._write(line)
            self._requests.append(recorded)
            self._attempts += 1
            self._counted_events += len(recorded.events)
            self._violations.update(each.code for each in recorded.violations)
            self._moved += len(recorded.moved)
            self._changed.notify_all()

    def _write(self, line: bytes) -> None:
        while line and self._file is not None:
            line = line[self._file.write(line) :]

    def mark(self) -> None:
        """Start counting the attempts since a fault."""
        with self._changed:
            self._attempts_at_mark = self._attempts

    def stats(self) -> dict[str, Any]:
        """Return the counts, all of one moment: numbers, and ``violations`` by code."""
        with self._changed:
            return {
                "requests": self._attempts,
                "counted_events": self._counted_events,
                "attempts_since_fault": self._attempts - self._attempts_at_mark,
                "violations": dict(sorted(self._violations.items())),
                "moved": self._moved,
            }

    def requests(self) -> tuple[Recorded, ...]:
        """Return the requests in memory, oldest first."""
        with self._changed:
            return tuple(self._requests)

    def events(self) -> tuple[dict[str, Any], ...]:
        """Return the counted events of the requests in memory, oldest first."""
        return tuple(_chain(self.requests()))

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Ask ``predicate`` now and after each request; return whether it came true in time."""
        with self._changed:
            return self._changed.wait_for(predicate, timeout)


def _chain(requests: tuple[Recorded, ...]) -> Iterator[dict[str, Any]]:
    for request in requests:
        yield from request.events


def _read(body: bytes | None) -> tuple[Any, str | None]:
    if body is None:
        return None, None
    try:
        return parse(body), None
    except ValueError:
        return None, _without_secret(body.decode(errors="replace"))


def _safe_query(query: Mapping[str, str]) -> dict[str, str | bool]:
    kept = {name: value for name, value in query.items() if name.lower() != "api_secret"}
    return {**kept, "api_secret_present": bool(query.get("api_secret"))}


def _without_secret(text: str) -> str:
    # A form-encoded body, or a target without its "?", carries the secret in the open.
    return _SECRET_IN_TEXT.sub(rf"\g<1>{HIDDEN}", text)
