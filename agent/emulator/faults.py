"""How GA4, or the network on the way to it, can fail."""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Final, Literal, get_args

from agent.emulator.answer import Answer, json_answer, login_answer

Kind = Literal[
    "status",
    "delay",
    "hang",
    "cut_before",
    "cut_half",
    "cut_after",
    "login_page",
    "redirect",
    "drip",
    "body",
]
KINDS: Final[tuple[str, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail; ValueError, with what was found and expected, if it makes no sense.

    Kinds, and whether GA4 counts the events that meet them:

    - ``status``: answers ``status`` with an empty body, and ``retry_after`` as Retry-After if it
      is set. Counted if it is a 2xx, because GA4's 2xx means that it took the request.
    - ``delay``: answers as ever, after ``seconds``. Counted, on arrival.
    - ``drip``: answers as ever, but one byte every ``seconds``. Counted, on arrival.
    - ``hang``: reads the request and never answers; once the fault is cleared the connection is
      closed without an answer. Not counted.
    - ``cut_before``: resets the connection after the headers, the body unread. Not counted.
    - ``cut_half``: reads the request and closes within the status line. Not counted.
    - ``cut_after``: takes the request and closes without an answer. Counted: the uncertain case.
    - ``login_page``: 200 with a captive portal's page. Not counted.
    - ``redirect``: 302 to ``location``. Not counted.
    - ``body``: 200 with a JSON body that GA4 would not send. Not counted.

    ``times`` is how many requests it meets (None: until it is cleared); ``match`` limits it to
    requests whose raw body contains that text.
    """

    kind: Kind
    _: KW_ONLY
    status: int = 503
    retry_after: str | None = None
    seconds: float = 0
    times: int | None = None
    match: str | None = None
    location: str = "/login"

    def __post_init__(self) -> None:
        for name, (fits, expected) in _EXPECTED.items():
            if not fits(getattr(self, name)):
                raise _unfit(f"{name} {getattr(self, name)!r}", expected)
        if self.kind == "cut_before" and self.match is not None:
            raise _unfit("match with cut_before", "no match: it cuts before the body is read")

    @property
    def counted(self) -> bool:
        """Whether GA4 takes the events of a request that meets this fault."""
        accepted = self.kind == "status" and self.status // 100 == 2  # noqa: PLR2004 - the 2 of "2xx"
        return accepted or self.kind in ("delay", "drip", "cut_after")

    def done(self, usual: Answer) -> int | str:
        """Return what the record says was answered: a status, or the kind of the fault."""
        if self.kind == "status":
            return self.status
        return usual.status if self.kind == "delay" else self.kind

    def instead(self, usual: Answer) -> Answer:
        """Return what is answered in place of the ``usual`` answer; that itself for most kinds."""
        match self.kind:
            case "status":
                pause = () if self.retry_after is None else (("Retry-After", self.retry_after),)
                return Answer(status=self.status, headers=pause)
            case "login_page":
                return login_answer()
            case "redirect":
                return Answer(status=302, headers=(("Location", self.location),))
            case "body":
                return json_answer({"status": "accepted", "by": "somebody who is not GA4"})
            case _:
                return usual


def read_faults(document: object) -> tuple[Fault, ...]:
    """Return the faults in parsed JSON, one object or a list of them; ValueError if it is not."""
    items = document if isinstance(document, list) and document else [document]
    return tuple(_read_fault(item) for item in items)


def _read_fault(document: object) -> Fault:
    if not isinstance(document, dict) or "kind" not in document:
        raise _unfit("no kind", f'an object such as {{"kind": "{KINDS[0]}", "status": 503}}')
    known = [field.name for field in fields(Fault)]
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise _unfit(f"the key {unknown[0]!r}", f"one of {', '.join(known)}")
    return Fault(**document)


@dataclass(frozen=True, slots=True)
class Due:
    """A fault that a request has met; ``over`` is set once the fault is cleared or replaced."""

    fault: Fault
    over: threading.Event


class FaultPlan:
    """The faults in force. A request meets the first that matches it and is not used up.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._faults: list[Fault] = []
        self._left: list[float] = []

    def replace(self, faults: tuple[Fault, ...]) -> None:
        """Put ``faults`` in force instead of what is, and release what hangs on that."""
        with self._lock:
            self._over.set()
            self._over = threading.Event()
            self._faults = list(faults)
            self._left = [math.inf if fault.times is None else fault.times for fault in faults]

    def take_unread(self) -> bool:
        """Return whether the next request is to be cut before its body is read; uses it up."""
        with self._lock:
            index = self._first(lambda _: True)
            if index is None or self._faults[index].kind != "cut_before":
                return False
            self._left[index] -= 1
            return True

    def take(self, text: str) -> Due | None:
        """Return the fault that a request with the body ``text`` meets, and use it up."""
        with self._lock:
            index = self._first(lambda fault: fault.match is None or fault.match in text)
            if index is None:
                return None
            self._left[index] -= 1
            return Due(self._faults[index], self._over)

    def _first(self, meets: Callable[[Fault], bool]) -> int | None:
        for index, fault in enumerate(self._faults):
            if self._left[index] > 0 and meets(fault):
                return index
        return None


def _unfit(found: str, expected: str) -> ValueError:
    return ValueError(f"cannot set the fault: found {found}, expected {expected}")


def _is_whole(value: object, low: int, high: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_duration(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # An Event cannot wait longer than TIMEOUT_MAX.
    return number and 0 <= value <= threading.TIMEOUT_MAX  # type: ignore[operator]


def _is_header(value: object) -> bool:
    # A line break would let a fault write headers of its own.
    return isinstance(value, str) and value.isascii() and value.isprintable()


_EXPECTED: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "status": (lambda value: _is_whole(value, 200, 599), "a status from 200 to 599"),
    "retry_after": (
        lambda value: value is None or _is_header(value),
        'text such as "30", or none',
    ),
    "seconds": (_is_duration, "seconds, 0 or more"),
    "times": (
        lambda value: value is None or _is_whole(value, 1, math.inf),
        "a whole number from 1, or none",
    ),
    "match": (
        lambda value: value is None or (isinstance(value, str) and value != ""),
        "text that is part of the body, or none",
    ),
    "location": (_is_header, 'an address such as "/login"'),
}
