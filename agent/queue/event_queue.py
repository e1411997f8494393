"""The queue: a persist-queue SQLiteAckQueue that moves many events in one transaction.

The inherited methods keep upstream's signatures and behaviour and are never called by the
agent. Leases live in memory: a crash sends again what was leased anyway, so a lease needs no
write. Acknowledged rows are deleted. A dead letter has upstream's status 9.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal, TypeVar

from persistqueue import SQLiteAckQueue

from agent.event import NOTHING, BootRow, Event, Priority, RawMessage, Stamp
from agent.queue import schema, serializer
from agent.queue.ballast import SIZE as BALLAST_SIZE
from agent.queue.ballast import Ballast
from agent.queue.bounded import Bounded, Bounds
from agent.queue.cap import Cap
from agent.queue.connection import WAL_LIMIT, give_back, prepare, text, used_bytes
from agent.queue.days import KEPT, DayRow, Days, Near, limits, nearness, read_days
from agent.queue.entries import NO_TRAFFIC, Leased, Seen, SessionState, SourceState, Step, Traffic
from agent.queue.eviction import Clearing, Eviction
from agent.queue.failures import StorageError, UnreadableQueue, unusable
from agent.queue.group_commit import GroupCommit, Transaction
from agent.queue.lanes import Lane, Lanes
from agent.queue.ledger import Books, Ledger, Sent
from agent.queue.order import NEWEST, Candidate, Dated, Order, candidates, dated, dated_row
from agent.queue.pages import READY, UNACKED, Page, Selection, read_page
from agent.queue.place import Place, Saved, hold_index, prove
from agent.queue.rows import (
    DEAD_BYTES,
    HELD,
    UNCERTAIN,
    NewRow,
    Rows,
    placed,
    recount,
    undamaged,
    waiting_in,
)
from agent.queue.serializer import DamagedRow

log = logging.getLogger(__name__)

T = TypeVar("T")
OnFull = Literal["evict", "refuse"]

FILE_NAME = "queue.db"
RESERVE = WAL_LIMIT + WAL_LIMIT // 4 + BALLAST_SIZE  # of max_bytes: for the WAL and the ballast
SLOW = 10.0  # seconds a commit may take before the disk is called slow
GIVE_BACK = 64  # pages given back with each acknowledgement: 25 usual events free about 25
PURGE_GIVE_BACK = 512  # likewise with each page of a purge: it frees about 300
STAMP_TRIES = 5  # rows that may be damaged, where the newest stamp is looked for
FIGURES_FOR = 60.0  # seconds for which figures hold that cost a look at all days
COUNTS = ("repaired.", "noted.", "refused.")  # what may be counted beside events, by kind


class EventQueue(SQLiteAckQueue):  # type: ignore[misc]  # persist-queue has no types
    """Events on disk, in order, each counted. Any thread may call any method."""

    _SQL_CREATE = schema.QUEUE_TABLE

    def __init__(
        self,
        path: str,
        auto_resume: bool = True,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        on_ready: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        on_full: OnFull = "refuse",
        quick_start: bool = False,
        **upstream: Any,
    ) -> None:
        self._monotonic = monotonic
        self.cap = Cap(max_bytes, reserve=RESERVE)
        self._on_full = on_full
        self._on_ready = on_ready
        self._trouble = ""  # the state word of the last commit's failure; empty when it worked
        self._ledger = Ledger()
        bounds = Bounds.within(max_bytes - RESERVE)
        self._bounded = Bounded(bounds)
        self._days = Days(names=bounds.names, clients=bounds.clients)
        self._figures: tuple[float, list[Near]] | None = None
        self._lanes = Lanes(waiting=self._waiting)
        self._order = Order()
        self._oldest_id = 0  # below it are only dead letters, which may be many
        self._looked_at: dict[int, Dated | None] = {}  # what the candidates for the oldest said
        self._oldest_lock = threading.Lock()
        self._upkeep_lock = threading.Lock()  # one step of a purge or requeue at a time
        self._ballast: Ballast | None = None
        self._quick_start = quick_start
        self._place: Place | None = None
        super().__init__(path, auto_resume=auto_resume, **upstream)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        on_ready: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        on_full: OnFull = "refuse",
    ) -> "EventQueue":
        """Open or make the queue of a state directory, and check that its file is sound.

        ``on_full``: whether the least important events go for new ones, or the source has to wait.
        Raises UnreadableQueue, StorageError: the disk cannot be read, or takes no write.
        """
        queue: EventQueue | None = None
        try:
            queue = cls(
                str(directory),
                auto_resume=False,
                max_bytes=max_bytes,
                on_ready=on_ready,
                monotonic=monotonic,
                on_full=on_full,
                quick_start=True,
                multithreading=True,
                serializer=serializer,
                db_file_name=FILE_NAME,
            )
            queue._begin(directory)
        except BaseException as error:
            if queue is not None:
                queue.close()  # else its files stay open, and each attempt would open more
            if isinstance(error, sqlite3.DatabaseError):
                raise unusable(error) from error
            raise
        return queue

    def _begin(self, directory: Path) -> None:
        with contextlib.suppress(OSError):  # some file systems cannot give blocks ahead
            hold_index(directory / FILE_NAME)
        self._ballast = Ballast(directory=directory, wal=directory / f"{FILE_NAME}-wal")
        # Before the check, which reads all of a large file: this may be tried again and again.
        self._settle(lambda transaction: prove(transaction.connection))
        self._check()
        self._place = Place(directory / FILE_NAME)
        self._ballast.fill()
        self._drop_uncertain()

    # -- what the agent calls ---------------------------------------------------------------

    def put_many(
        self,
        items: Sequence[Event | RawMessage],
        *,
        state: Sequence[SourceState] = (),
        sessions: Sequence[SessionState] = (),
        seen: Sequence[Seen] = (),
        boots: Sequence[BootRow] = (),
        counts: Mapping[str, int] = NOTHING,
        can_wait: bool = False,
    ) -> None:
        """Commit events (and raw messages, as dead letters) with all that must not part from them.

        ``counts``: to be added to the ledger, as ``repaired.KIND``, ``noted.KIND`` and
        ``refused.REASON``. When it returns all is on the disk. Raises QueueFull, StorageError;
        then nothing is. A queue that is full and evicts counts what is less important than all that
        is there as evicted at once, unless the source ``can_wait``: it keeps them.
        """
        rows = [NewRow.of(item) for item in items]
        _expect_counts(counts)
        if self._place:
            self._place.expect()
        if not self._has_room(rows):
            self._trouble = "disk_full"
            raise StorageError("disk_full", "cannot take events: the disk is full")
        for boot in boots:
            self._order.begin(boot.boot_id, boot.number)

        clearing = Clearing(self._eviction, can_wait=can_wait)

        def work(transaction: Transaction) -> list[NewRow]:
            fitting = clearing.make_room(transaction, rows)
            self._rows.insert(transaction, fitting)
            transaction.changes.update(counts)
            self._put_beside(transaction.connection, state, sessions, seen, boots)
            return fitting

        try:
            stored = self._durably(work)
        except BaseException:
            clearing.undone()
            raise
        clearing.committed()
        self._now_ready(Counter(row.lane for row in stored if row.waiting))

    def lease(
        self,
        stream: str,
        *,
        limit: int,
        on_pick: Callable[[Sequence[int]], None] = lambda _ids: None,
    ) -> tuple[Leased, ...]:
        """Up to ``limit`` waiting events of one sender, highest priority first, in order.

        They are nobody else's until ``ack_many``, ``release`` or ``bury``. ``on_pick`` hears the
        ids before their content is looked at.
        """
        for priority in Priority:
            while ids := self._lanes.pick((stream, priority), limit):
                on_pick(ids)
                try:
                    leased = self._load(ids)
                except StorageError:
                    self._lanes.release(ids)
                    raise
                if leased:
                    return leased
        return ()

    def ready(self, stream: str) -> int:
        """How many events of the stream wait and are not leased."""
        return self._lanes.ready(stream)

    def mark_sending(self, ids: Sequence[int]) -> None:
        """Commit that leased events are about to be sent, and must not be sent twice.

        Those that still are so at the next start are dropped as uncertain. Raises StorageError.
        """
        self._settle(lambda transaction: self._rows.mark_sending(transaction, ids, 1))

    def unmark_sending(self, ids: Sequence[int]) -> None:
        """Commit that they were not sent after all. Raises StorageError."""
        self._settle(lambda transaction: self._rows.mark_sending(transaction, ids, 0))

    def ack_many(
        self,
        ids: Sequence[int],
        *,
        traffic: Traffic = NO_TRAFFIC,
        sent: Sequence[Sent] = (),
        counts: Mapping[str, int] = NOTHING,
    ) -> None:
        """Forget events that were delivered. Raises StorageError; they then stay leased.

        ``sent``: as what each of them left, in the order of ``ids``; without it they are counted
        on the day of their stamps. ``counts``: as in ``put_many``.
        """
        _expect_counts(counts)
        if sent and len(sent) != len(ids):
            raise ValueError(f"cannot count what was sent: found {len(sent)}, expected {len(ids)}")

        def work(transaction: Transaction) -> None:
            if sent:
                self._rows.send(transaction, ids, sent)
            else:
                self._rows.leave(transaction, ids, "sent")
            transaction.changes.update(_costs(traffic))
            transaction.changes.update(counts)
            give_back(transaction.connection, GIVE_BACK)

        self._settle(work)
        self._lanes.forget(ids)

    def drop(self, ids: Sequence[int], *, reason: str) -> None:
        """Lose leased events for good, counted. Raises StorageError; they then stay leased."""
        counter = f"dropped.{reason}"
        self._settle(lambda transaction: self._rows.leave(transaction, ids, counter))
        self._lanes.forget(ids)

    def release(self, ids: Sequence[int]) -> None:
        """Give leased events back unchanged; they are next in their order again.

        Rings no bell: who gives back knows when it will look again.
        """
        self._lanes.release(ids)

    def bury(self, ids: Sequence[int], *, reason: str, traffic: Traffic = NO_TRAFFIC) -> None:
        """Make dead letters of events: kept, with the reason. Raises StorageError."""

        def work(transaction: Transaction) -> None:
            self._rows.bury(transaction, ids, reason)
            self._eviction.trim_dead(transaction)
            transaction.changes.update(_costs(traffic))

        self._settle(work)
        self._lanes.forget(ids)

    def purge(self, selection: Selection, *, after: int = 0) -> Step:
        """Drop a page of the rows behind ``after``, counted. What is leased is kept.

        Raises StorageError, UnreadableQueue; then nothing of the page is dropped.
        """
        with self._upkeep_lock:
            page = self._page(selection, after)
            wanted = [row.id for row in page.rows if selection.takes(row)]
            ids = wanted if selection.dead else self._lanes.claim(lambda: self._still(wanted))
            try:
                done = self._purge(page, set(ids), dead=selection.dead) if ids else 0
            except BaseException:
                if not selection.dead:
                    self._lanes.release(ids)
                raise
            self._lanes.forget(ids)
        return Step(done, len(wanted) - done, page.next)

    def requeue(self, selection: Selection, *, after: int = 0) -> Step:
        """Let a page of the dead events behind ``after`` wait again, in their old places.

        Raw messages and damaged rows are no events: they are kept. Raises StorageError,
        UnreadableQueue; then nothing of the page waits again.
        """
        with self._upkeep_lock:
            page = self._page(selection, after)
            wanted = [row for row in page.rows if selection.takes(row)]
            # A row that is dead and leased is just being buried: its lease is not forgotten yet.
            free = set(self._lanes.unleased(row.id for row in wanted))
            events = [(r.id, e) for r in wanted if r.id in free and isinstance(e := r.item, Event)]
            if events:
                self._durably(lambda transaction: self._rows.revive(transaction, events))
                self._wait_again(events)
        return Step(len(events), len(wanted) - len(events), page.next)

    def note_traffic(self, traffic: Traffic) -> None:
        """Count a request that moved no event; written with the next commit."""
        self._ledger.note(_costs(traffic))

    def note_refused(self, reason: str, number: int = 1) -> None:
        """Count what was turned away at the door; written with the next commit."""
        self._ledger.note({f"refused.{reason}": number})

    def write_noted(self) -> None:
        """Commit the counts that still wait for a commit. Raises StorageError."""
        self._durably(lambda _transaction: None)

    def source_state(self, source: str) -> dict[str, str]:
        """What the source committed with its events, by key."""
        rows = self._read("SELECT key, value FROM source_state WHERE source = ?", source)
        return dict(rows)

    def session(self, client: str) -> str | None:
        """What was last known of the client's sitting, if it is not too long ago."""
        found = self._read("SELECT state FROM sessions WHERE client = ?", client)
        return found[0][0] if found else None

    def seen(self, kind: str) -> list[tuple[str, str]]:
        """Keys and digests of a kind, the oldest first; see ``Seen``."""
        with self._reading() as connection:
            return self._bounded.seen(connection, kind)

    def boots(self) -> list[tuple[str, int, str]]:
        """Id, number and state of the newest boots, in their order."""
        return self._read("SELECT boot_id, number, state FROM boots ORDER BY number")

    def newest_stamp(self) -> Stamp | None:
        """The stamp of what was stored last and is still there, dead letters included."""
        sql = f"SELECT CAST(data AS BLOB) FROM {self._table} ORDER BY _id DESC LIMIT {STAMP_TRIES}"
        for (data,) in self._read(sql):
            if item := undamaged(data):
                return item.stamp
        return None

    def days(self, *, last: int = KEPT, stream: str | None = None) -> list[DayRow]:
        """The ledger of the newest days, by day, stream and event."""
        with self._reading() as connection:
            return read_days(connection, last=last, stream=stream)

    def nearness(self, *, apps: Collection[str] = ()) -> list[Near]:
        """Where 80 % of one of GA4's limits is reached. ``apps``: the names of app streams."""
        figures = self._figures
        if figures is None or self._monotonic() - figures[0] >= FIGURES_FOR:
            with self._reading() as connection:
                figures = (self._monotonic(), limits(connection))
            self._figures = figures
        return nearness(figures[1], apps)

    def bury_row(self, row_id: int, *, reason: str) -> None:
        """Bury a row that may not be leased, or not there any more."""
        self._lanes.claim(lambda: self._still([row_id]))
        self.bury([row_id], reason=reason)

    @property
    def books(self) -> Books:
        """The ledger now."""
        return self._ledger.books

    @property
    def trouble(self) -> str:
        """Why events are not taken, or only slowly, as a word for `status`; empty if they are."""
        if self.displaced:
            return "read_only"
        with contextlib.suppress(OSError):  # the directory may go at this very moment
            if self._ballast and (self._ballast.spent or not self._ballast.leaves_room(0)):
                return "disk_full"
        return self._trouble or ("storage_slow" if self.committing_s() > SLOW else "")

    def mend(self) -> None:
        """After trouble: see whether the disk takes writes again."""
        if not self.trouble or self.displaced or self.committing_s():
            return
        with contextlib.suppress(StorageError):
            if self._has_room():
                self._durably(lambda transaction: prove(transaction.connection))

    @property
    def displaced(self) -> bool:
        """Whether the file was removed or replaced: what is committed now does not outlive us."""
        return self._place is not None and self._place.displaced

    def save_displaced(self) -> Saved:
        """Put what is in the displaced file to where the next start finds it.

        After that nothing can be committed any more: the process must end. Raises StorageError:
        nothing is saved, and all goes on.
        """
        assert self._place is not None, "this queue was not opened by open()"
        self.tran_lock.acquire()
        try:
            return self._place.save(self._putter)
        except (OSError, sqlite3.Error) as error:
            self.tran_lock.release()
            raise StorageError("read_only", f"cannot save the queue: {error}") from error

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold something; its free pages are not counted."""
        with self._reading() as connection:
            return used_bytes(connection)

    @property
    def max_bytes(self) -> int:
        """The cap. A lower one takes nothing away: it holds when enough has left."""
        return self.cap.max_bytes

    @max_bytes.setter
    def max_bytes(self, value: int) -> None:
        self.cap.max_bytes = value

    @property
    def on_full(self) -> OnFull:
        """What happens when events come and there is no room."""
        return "evict" if self._eviction.evicts else "refuse"

    @on_full.setter
    def on_full(self, value: OnFull) -> None:
        self._eviction.evicts = value == "evict"

    def oldest_candidates(
        self, *, on_pick: Callable[[int], None] = lambda _id: None
    ) -> tuple[Dated, ...]:
        """When the waiting events happened of which one is the oldest, leased ones included.

        Empty if none waits. ``on_pick`` hears a row's id before its content is looked at.
        """
        if not self.books.queued:
            return ()
        with self._oldest_lock:
            found = self._candidates()
            known, self._looked_at = self._looked_at, {}

            def look(row_id: int) -> Dated | None:
                if row_id not in known:
                    on_pick(row_id)
                    known[row_id] = self._dated(row_id)
                self._looked_at[row_id] = known[row_id]
                return known[row_id]

            return dated(found, look)

    def _candidates(self) -> list[Candidate]:
        with self._reading() as connection:
            found = candidates(connection, self._table, after=self._oldest_id - 1)
        in_order = [each.id for each in found if not each.early]
        self._oldest_id = in_order[0] if in_order else self._oldest_id
        return found

    def _dated(self, row_id: int) -> Dated | None:
        found = self._read(f"SELECT CAST(data AS BLOB) FROM {self._table} WHERE _id = ?", row_id)
        return dated_row(found[0][0]) if found else None

    def committing_s(self) -> float:
        """Seconds for which a commit has been running: a dying card takes minutes."""
        return self._commits.running_s()

    # -- opening ----------------------------------------------------------------------------

    def _init(self) -> None:
        super()._init()
        self._table = self._table_name
        self._rows = Rows(self._table, self._order)
        for connection in (self._getter, self._putter):
            connection.text_factory = text  # a flipped bit in a text must not raise
        for index in schema.INDEXES:
            self._putter.execute(index.format(table_name=self._table, key_column=self._KEY_COLUMN))
        self._putter.executescript(schema.TABLES)
        self._eviction = Eviction(
            table=self._table,
            rows=self._rows,
            lanes=self._lanes,
            cap=self.cap,
            ledger=self._ledger,
            evicts=self._on_full == "evict",
        )
        self._commits = GroupCommit(
            connection=self._putter,
            lock=self.tran_lock,
            ledger=self._ledger,
            days=self._days,
            monotonic=self._monotonic,
        )

    def _new_db_connection(
        self, path: str, multithreading: bool, timeout: float
    ) -> sqlite3.Connection:
        """Upstream's connection, with what must be set before it switches to WAL."""
        connection = sqlite3.connect(
            path if path == self._MEMORY else f"{path}/{self.db_file_name}",
            timeout=timeout,
            check_same_thread=not multithreading,
        )
        try:
            prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self) -> None:
        found = self._read_one("PRAGMA quick_check(1)")
        if found != "ok":
            raise UnreadableQueue(f"cannot use the queue: found damage ({found})")
        self._ledger.read(self._getter)
        if self._read(f"SELECT 1 FROM {self._table} WHERE status = {UNACKED} LIMIT 1"):
            self.resume_unack_tasks()
        self._adopt()
        self._remember_order()
        self._count_held()
        self.total = self.books.queued

    def _adopt(self) -> None:
        """Take over rows that a plain SQLiteAckQueue put: it does not know our columns."""
        sql = f"SELECT _id, CAST(data AS BLOB) FROM {self._table} WHERE stream = '' AND status < {READY}"
        foreign = self._read(sql)
        if foreign:
            self._durably(
                lambda transaction: self._rows.adopt(transaction, foreign, now=time.time())
            )

    def _remember_order(self) -> None:
        """What comes next is compared with what was put before."""
        for boot_id, number, _ in self.boots():
            self._order.begin(boot_id, number)
        sql = f"SELECT CAST(data AS BLOB) FROM {self._table} ORDER BY _id DESC LIMIT {NEWEST}"
        found = [dated_row(data) for (data,) in self._read(sql)]
        self._order.remember(one.stamp for one in found if one)

    def _count(self) -> int:
        """What upstream counts at the start: that is a look at every row, and nobody asks for it."""
        return 0 if self._quick_start else int(super()._count())

    def _count_held(self) -> None:
        """What waits in each lane, as it was counted; anew where that cannot be."""
        lanes, books = waiting_in(self._ledger.counters), self.books
        exact = sum(lanes.values()) == books.queued and min(lanes.values(), default=0) >= 0
        if not exact or bool(books.dead) != bool(self._ledger.value(DEAD_BYTES)):
            lanes = self._recounted()
        self._lanes.add(lanes)

    def _recounted(self) -> dict[Lane, int]:
        with self._reading() as connection:
            found = recount(connection, self._table)
        counted = self._ledger.counters
        known = Counter({key: n for key, n in counted.items() if key.startswith(HELD)})
        known.subtract(found)
        self._durably(lambda transaction: transaction.changes.subtract(known))
        return waiting_in(found)

    # -- writing ----------------------------------------------------------------------------

    def _durably(self, work: Callable[[Transaction], T]) -> T:
        try:
            result = self._commits.run(work)
        except sqlite3.DatabaseError as error:
            raise self._why(error) from error
        self._trouble = ""
        return result

    def _why(self, error: sqlite3.DatabaseError) -> Exception:
        """What a person can do something about; noted as the state."""
        why = unusable(error)
        if isinstance(why, UnreadableQueue) and self._place and self._place.unreadable:
            why = StorageError("read_only", "cannot read the queue's disk: I/O error")
        self._trouble = why.state if isinstance(why, StorageError) else ""
        return why

    def _settle(self, work: Callable[[Transaction], T]) -> T:
        """Write what frees space, on a full disk with the ballast's help."""
        try:
            return self._durably(work)
        except StorageError as error:
            if error.state != "disk_full" or not self._ballast:
                raise
            self._ballast.spend()
            self._fold()
            return self._durably(work)

    def _has_room(self, rows: Sequence[NewRow] = ()) -> bool:
        if self._ballast is None:
            return True
        incoming = sum(row.size for row in rows)
        try:
            return self._ballast.fill() and self._ballast.leaves_room(incoming)
        except OSError as error:  # the directory was just removed, or the disk pulled out
            why = f"cannot look at the queue's disk: {error.strerror}"
            raise StorageError("read_only", why) from error

    def _fold(self) -> None:
        """Move what the WAL holds into the file, and give its space back to the disk."""
        with self.tran_lock, contextlib.suppress(sqlite3.OperationalError):
            self._putter.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _put_beside(
        self,
        connection: sqlite3.Connection,
        state: Sequence[SourceState],
        sessions: Sequence[SessionState],
        seen: Sequence[Seen],
        boots: Sequence[BootRow],
    ) -> None:
        for entry in state:
            entry.write(connection)
        for session in sessions:
            self._bounded.put_session(connection, session.client, session.state)
        for one in seen:
            self._bounded.put_seen(connection, one.kind, one.key, one.digest)
        self._bounded.put_boots(connection, [astuple(boot) for boot in boots])

    # -- leasing ----------------------------------------------------------------------------

    def _waiting(
        self, after: int, stream: str, priority: int
    ) -> Generator[tuple[int, str], None, None]:
        """Ids and senders of a lane's rows, in order."""
        # Said twice for the planner: only `priority <> 1` lets it use the partial index, without
        # which one high event behind a million normal ones would be a scan of all of them.
        condition = (
            "priority = ?" if priority == Priority.NORMAL else "priority = ? AND priority <> 1"
        )
        with self._reading() as connection:
            cursor = connection.cursor()
            try:
                yield from cursor.execute(
                    f"SELECT _id, sender FROM {self._table} WHERE {condition} "
                    f"AND status < {READY} AND stream = ? AND _id > ? ORDER BY _id",
                    (priority, stream, after),
                )
            finally:
                cursor.close()  # an open cursor would pin the WAL

    def _load(self, ids: Sequence[int]) -> tuple[Leased, ...]:
        marks = ",".join("?" * len(ids))
        # A damaged page can turn a BLOB into TEXT that does not even decode.
        sql = (
            f"SELECT _id, CAST(data AS BLOB) FROM {self._table} WHERE _id IN ({marks}) ORDER BY _id"
        )
        leased: list[Leased] = []
        damaged: list[int] = []
        for row_id, data in self._read(sql, *ids):
            try:
                item = self._serializer.loads(data)
                leased.append(Leased(row_id, item))
            except DamagedRow:
                damaged.append(row_id)
        if damaged:
            self._bury_damaged(damaged)
        self._lanes.forget(set(ids) - {row.id for row in leased} - set(damaged))
        return tuple(leased)

    def _bury_damaged(self, ids: Sequence[int]) -> None:
        try:
            self.bury(ids, reason="damaged")
        except StorageError:
            return  # they stay leased, so nobody meets them again before the next start

    def _now_ready(self, numbers: Counter[Lane]) -> None:
        self._lanes.add(numbers)
        if numbers:
            self._on_ready()

    # -- upkeep -----------------------------------------------------------------------------

    def _page(self, selection: Selection, after: int) -> Page:
        with self._reading() as connection:
            return read_page(connection, self._table, selection, after)

    def _still(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Those of the rows that wait, leased or not: id, stream, priority."""
        marks = ",".join("?" * len(ids))
        sql = f"SELECT _id, stream, priority FROM {self._table} WHERE _id IN ({marks}) AND status < {READY}"
        return self._read(sql, *ids)

    def _purge(self, page: Page, ids: Collection[int], *, dead: bool) -> int:
        # Looked into before the transaction: others wait for it.
        rows = placed(row for row in page.rows if row.id in ids)

        def work(transaction: Transaction) -> int:
            dropped = self._rows.purge(transaction, rows, dead=dead)
            give_back(transaction.connection, PURGE_GIVE_BACK)
            return dropped

        return self._settle(work)

    def _drop_uncertain(self) -> None:
        """What was being sent when the last process ended, and must not be sent twice."""
        sql = f"SELECT _id, stream, priority FROM {self._table} WHERE sending = 1 AND status < {READY}"
        ids = self._lanes.claim(lambda: self._read(sql))
        if not ids:
            return
        log.warning("dropping %d events: it is uncertain whether they were delivered", len(ids))
        # If the disk refuses they stay leased, so that nobody sends them before the next start.
        with contextlib.suppress(StorageError):
            self.drop(ids, reason=UNCERTAIN.removeprefix("dropped."))

    def _wait_again(self, events: Sequence[tuple[int, Event]]) -> None:
        with self._oldest_lock:
            self._oldest_id = min(self._oldest_id, events[0][0])
        self._eviction.note_back(events[0][0])
        self._lanes.readmit((row_id, (e.stream, int(e.priority))) for row_id, e in events)
        self._on_ready()

    # -- reading ----------------------------------------------------------------------------

    def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
        return rows

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection to read with. Raises StorageError for a disk that refuses that."""
        try:
            with self.action_lock:
                yield self._getter
        except sqlite3.DatabaseError as error:
            raise self._why(error) from error

    def _read_one(self, sql: str) -> Any:
        return self._read(sql)[0][0]


def _expect_counts(counts: Mapping[str, int]) -> None:
    """What may be counted by others: anything else could unbalance the books."""
    for counter in counts:
        if not counter.startswith(COUNTS):
            raise ValueError(f"cannot count {counter!r}: expected one of {', '.join(COUNTS)}")


def _costs(traffic: Traffic) -> dict[str, int]:
    return {
        "requests": traffic.requests,
        "bytes_sent": traffic.sent,
        "bytes_received": traffic.received,
    }
