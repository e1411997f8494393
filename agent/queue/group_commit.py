"""Group commit by leader hand-off: who arrives while a commit runs shares the next one.

An fsync on an SD card takes 5 to 50 ms. Eight threads that put one event each would wait for
eight of them in a row; here the second to the eighth wait for one.
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from agent import crash_point
from agent.queue.days import DayKey, Days
from agent.queue.ledger import Ledger

T = TypeVar("T")


class Declined(Exception):  # noqa: N818 - an answer rather than an error
    """A work was declined before it wrote anything: the others of its group go on."""


@dataclass(slots=True)
class Transaction:
    """What a work may use: the connection inside a transaction, and counters to change."""

    connection: sqlite3.Connection
    changes: Counter[str] = field(default_factory=Counter)
    days: Counter[DayKey] = field(default_factory=Counter)


@dataclass(slots=True)
class _Ticket(Generic[T]):
    work: Callable[[Transaction], T]
    result: T | None = None
    error: BaseException | None = None
    done: bool = False

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # done and no error: the work ran


class GroupCommit:
    """Runs works in transactions that concurrent callers share, and the ledger with them."""

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        lock: threading.Lock,
        ledger: Ledger,
        days: Days,
        monotonic: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._ledger = ledger
        self._days = days
        self._monotonic = monotonic
        self._turn = threading.Condition()
        self._waiting: list[_Ticket[Any]] = []
        self._leading = False
        self._since: float | None = None

    def run(self, work: Callable[[Transaction], T]) -> T:
        """Run the work and return when it is on the disk. Raises what it raised."""
        ticket = _Ticket(work)
        with self._turn:
            self._waiting.append(ticket)
            while self._leading and not ticket.done:
                self._turn.wait()
            if ticket.done:
                return ticket.outcome()
            self._leading = True
            group, self._waiting = self._waiting, []
        try:
            self._commit(group)
        finally:
            with self._turn:
                self._leading = False
                self._turn.notify_all()
        return ticket.outcome()

    def running_s(self) -> float:
        """Seconds for which the present commit has been running; 0 when none is."""
        since = self._since
        return 0.0 if since is None else self._monotonic() - since

    def _commit(self, group: list[_Ticket[Any]]) -> None:
        self._since = self._monotonic()
        noted = self._ledger.take_noted()
        try:
            with self._lock:
                changes = self._transact(group, noted)
        except BaseException as error:
            self._ledger.note(noted)
            for ticket in group:
                ticket.error = ticket.error or error
        else:
            self._ledger.committed(changes)
        finally:
            self._since = None
            for ticket in group:
                ticket.done = True

    def _transact(self, group: list[_Ticket[Any]], noted: Counter[str]) -> Counter[str]:
        transaction = Transaction(self._connection, Counter(noted))
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for ticket in group:
                _perform(ticket, transaction)
            Ledger.write(self._connection, transaction.changes)
            self._days.write(self._connection, transaction.days)
            crash_point.reached("commit.before")
            self._connection.commit()
            crash_point.reached("commit.after")
        except BaseException:
            # SQLite may have rolled back by itself, as it does when the disk is full.
            if self._connection.in_transaction:
                self._connection.rollback()
            raise
        return transaction.changes


def _perform(ticket: _Ticket[Any], transaction: Transaction) -> None:
    try:
        ticket.result = ticket.work(transaction)
    except Declined as declined:
        ticket.error = declined
