"""Opening the queue whatever became of its file: what can be read of it is taken over.

A disk that cannot be written is no damage: then nothing is moved, and StorageError is raised.
"""

import gc
import json
import logging
import secrets
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.queue import quarantine, schema
from agent.queue.ballast import FILE_NAME as BALLAST
from agent.queue.bounded import Bounds
from agent.queue.connection import prepare
from agent.queue.days import Days
from agent.queue.event_queue import FILE_NAME, RESERVE, EventQueue
from agent.queue.failures import StorageError, UnreadableQueue, damaged, unusable, unwritten
from agent.queue.ledger import Ledger
from agent.queue.pages import DEAD, READY, UNACKED
from agent.queue.quarantine import Quarantine
from agent.queue.rows import HELD, recount
from agent.queue.salvage import ACKED, LAST_DAMAGE, PROGRESS, Salvage, Saved
from agent.queue.schema import TABLE
from agent.queue.wreck import ID_MOST, KEYS, QUEUE_ID, Wreck, has_wal, mixed_up, read_only, trusted

log = logging.getLogger(__name__)

CHUNK = 1024 * 1024  # bytes read at once
TRIES = 3  # files in a row that are damaged: then it is the disk
VERSIONS = 1000  # a version that is newer by more is a damaged number
LOOKED_INTO = 100_000  # rows up to which each is counted at the start
WRONG_KIND = (TypeError, ValueError, LookupError, OverflowError)  # what damaged values lead to


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was wrong with the queue's file and is still worth knowing.

    ``damage``: of the last one, ``when`` (ISO), ``why``, ``saved``, ``damaged``, ``lost`` (None: nobody
    knows) and ``file``; empty if there was none. ``set_aside``: names of files that only a newer
    program can read.
    """

    damage: Mapping[str, Any]
    set_aside: tuple[str, ...]


def open_queue(
    directory: Path,
    *,
    max_bytes: int,
    on_ready: Callable[[], None] = lambda: None,
    monotonic: Callable[[], float] = time.monotonic,
    wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    **options: Any,
) -> EventQueue:
    """A queue that works, with all that can be saved. ``options``: those of EventQueue.open.

    Raises StorageError: the disk cannot be written, or another program holds the file.
    """
    options |= {"max_bytes": max_bytes, "on_ready": on_ready, "monotonic": monotonic}
    return _Opening(directory, options, wall_us).run()


def report(directory: Path) -> Report:
    """What `status` says of damage, from the files. Raises nothing."""
    damage: Mapping[str, Any] = {}
    with (
        suppress(sqlite3.DatabaseError, *WRONG_KIND),
        closing(read_only(directory / FILE_NAME)) as file,
    ):
        sql = "SELECT value FROM meta WHERE key = ?"
        found = file.execute(sql, (LAST_DAMAGE,)).fetchone()
        damage = json.loads(found[0]) if found else {}
    try:
        names = [path.name for path in quarantine.files_set_aside(directory)]
    except OSError:
        names = []
    return Report(damage=damage if isinstance(damage, dict) else {}, set_aside=tuple(names))


def outside_bytes(directory: Path) -> int:
    """Bytes of the quarantine and of the files that were set aside."""
    folder = Quarantine(directory, max_bytes=0)
    aside = [
        each
        for path in quarantine.files_set_aside(directory)
        for each in (path, quarantine.wal_of(path))
    ]
    return folder.size + sum(path.stat().st_size for path in aside if path.exists())


class _Newer(Exception):  # noqa: N818 - named after what was found
    def __init__(self, version: int) -> None:
        super().__init__(f"version {version}")
        self.version = version


class _Opening:
    """One opening of a state directory's queue."""

    def __init__(
        self, directory: Path, options: Mapping[str, Any], wall_us: Callable[[], int]
    ) -> None:
        self._directory = directory
        self._options = options
        self._wall_us = wall_us
        self._database = directory / FILE_NAME
        self._quarantine = Quarantine(directory, max_bytes=options["max_bytes"])
        self._why: dict[Path, str] = {}

    def run(self) -> EventQueue:
        with _disk():
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._finish_moves()
            for _ in range(TRIES):
                try:
                    return self._attempt()
                except _Newer as newer:
                    self._set_aside(newer.version)
                except UnreadableQueue as damage:
                    _let_go(damage)
                    self._expect_readable()
                    self._why[self._quarantine.admit(self._database)] = _in_one_line(damage)
        raise StorageError(
            "read_only",
            "cannot keep a queue: what is written to the disk does not come back; replace the card",
        )

    # -- files ------------------------------------------------------------------------------

    def _expect_readable(self) -> None:
        """SQLite calls it damage when the disk cannot be read. Raises OSError."""
        for path in (self._database, quarantine.wal_of(self._database)):
            if path.exists():
                with path.open("rb") as file:
                    while file.read(CHUNK):
                        pass

    def _finish_moves(self) -> None:
        aside = list(quarantine.files_set_aside(self._directory))
        quarantine.finish_move(self._database, [*self._quarantine.pending(), *aside])
        self._quarantine.trim()

    def _set_aside(self, version: int) -> None:
        place = quarantine.set_aside(self._database, version)
        log.error(
            "the queue was written by a newer version of this program (file version %d, this one "
            "knows %d): it is set aside as %s and taken over after the next upgrade; the queue "
            "starts empty",
            version,
            schema.VERSION,
            place,
        )

    def _sources(self) -> list[tuple[Path, bool]]:
        """What is to be taken over, and whether it was this queue's own file until now."""
        known = quarantine.files_set_aside(self._directory).items()
        own = [(path, True) for path in self._quarantine.pending()]
        return own + [(path, False) for path, version in known if version <= schema.VERSION]

    # -- one attempt ------------------------------------------------------------------------

    def _attempt(self) -> EventQueue:
        """Raises _Newer, UnreadableQueue, StorageError."""
        sources = self._sources()
        with _content():
            self._inspect(began_anew=bool(sources))
        queue = self._open()
        try:
            amiss = sources or not self._in_order(queue)
            self._name_file()
        except BaseException:
            queue.close()
            raise
        if amiss:
            queue.close()
            self._put_right(sources)
            queue = self._open()
            self._name_file()
        return queue

    def _inspect(self, *, began_anew: bool) -> None:
        """Look before anything is written: SQLite would remove or use up what is still needed."""
        if quarantine.wal_of(self._database, "-journal").exists():
            # A power cut while the file was made: only who may write can look into it.
            with closing(sqlite3.connect(self._database, timeout=10)) as file:
                file.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        size = self._database.stat().st_size if self._database.exists() else None
        if size is None or size < schema.PAGE_SIZE:
            used = (self._directory / BALLAST).exists() and not (
                began_anew or quarantine.files_set_aside(self._directory)
            )
            if used or size or has_wal(self._database):
                found = "its file is gone" if size is None else f"its file has only {size} bytes"
                raise UnreadableQueue(f"cannot read the queue: {found}")
            return
        with closing(read_only(self._database)) as file:
            file.execute("PRAGMA writable_schema = OFF")
            _expect_version(file.execute("PRAGMA user_version").fetchone()[0])
            _expect_tables(file)
        if mixed_up(self._database):
            raise UnreadableQueue("cannot read the queue: the WAL is that of another file")

    def _open(self) -> EventQueue:
        with _content():
            return EventQueue.open(self._directory, **self._options)

    def _name_file(self) -> None:
        """Give the file a number of its own, by which its WAL is known; if the disk takes it."""
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(self._database, timeout=10)) as file,
        ):
            sql = "SELECT 1 FROM ledger WHERE counter = ?"
            if file.execute(sql, (QUEUE_ID,)).fetchone() is None:
                sql = "INSERT OR IGNORE INTO ledger VALUES (?, ?)"
                file.execute(sql, (QUEUE_ID, secrets.randbits(52)))
                file.commit()

    def _in_order(self, queue: EventQueue) -> bool:
        """Whether ledger and rows agree, which a flipped bit need not disturb SQLite for."""
        with _content(), closing(read_only(self._database)) as file:
            counters = trusted((file.execute("SELECT * FROM ledger").fetchall(), True))
            if counters is None:
                return False
            books = queue.books
            newest = file.execute("SELECT MAX(seq) FROM sqlite_sequence").fetchone()[0]
            if not isinstance(newest or 0, int) or (newest or 0) >= ID_MOST:
                raise UnreadableQueue("cannot read the queue: an id is beyond all that can be")
            if books.queued + books.dead > LOOKED_INTO:
                return True  # a start must not take long: what is left out can only be in figures
            return not _differences(file, counters) and _indexes_are_right(file)

    # -- putting right ----------------------------------------------------------------------

    def _put_right(self, sources: list[tuple[Path, bool]]) -> None:
        with _content(), closing(sqlite3.connect(self._database, timeout=10)) as target:
            prepare(target)
            for path, same in sources:
                self._take_over(target, path, same=same)
            if sources:
                _forget_progress(target)
            elif not _indexes_are_right(target):
                target.execute("REINDEX")
                if not _indexes_are_right(target):
                    raise UnreadableQueue("cannot read the queue: an index contradicts the rows")
            try:
                self._mend_books(target)
            except sqlite3.OperationalError as error:
                if damaged(error):
                    raise
                # Figures are no reason not to start: a full disk gets empty only by what leaves.
                log.warning("cannot put the ledger right: %s", error)

    def _take_over(self, target: sqlite3.Connection, path: Path, *, same: bool) -> None:
        why = self._why.get(path, "found at an earlier start")
        bounds = Bounds.within(self._options["max_bytes"] - RESERVE)
        now_us = self._wall_us()

        def describe(saved: Saved) -> Mapping[str, Any] | None:
            return _damage(saved, why, now_us, path) if same or saved.lost != 0 else None

        with closing(Wreck(path)) as wreck:
            salvage = Salvage(
                wreck=wreck,
                target=target,
                name=path.name,
                same=same,
                days=Days(names=bounds.names, clients=bounds.clients),
                now_us=now_us,
            )
            saved = salvage.run(describe)
        if same:
            self._quarantine.close(path, _damage(saved, why, now_us, path))
            _say_damage(saved, why, path)
        else:
            quarantine.remove(path)
            log.warning("taken over from %s: %s events", path, f"{saved.events:,}")

    def _mend_books(self, target: sqlite3.Connection) -> None:
        """Let the ledger say what is in the file; what is missing there is lost."""
        target.execute("BEGIN IMMEDIATE")
        sound = f"0, 1, {UNACKED}, {ACKED}, {DEAD}"
        target.execute(f"UPDATE {TABLE} SET status = 0 WHERE status NOT IN ({sound})")
        counters = trusted((target.execute("SELECT * FROM ledger").fetchall(), True))
        if restarted := counters is None:
            target.execute("DELETE FROM ledger")
        changes = _differences(target, counters or {})
        lost, held = changes["dropped.damaged"], changes["received"]
        if restarted or (held and not (counters or {}).get("received")):
            changes["noted.ledger_restarted"] += 1
            restarted = True
        Ledger.write(target, changes)
        if lost or restarted:
            there = sum(target.execute(f"SELECT COUNT(*) FROM {TABLE}").fetchone())
            self._note_mended(target, Saved(events=there, lost=None if restarted else lost))
        target.commit()

    def _note_mended(self, target: sqlite3.Connection, saved: Saved) -> None:
        why = "its ledger cannot be right" if saved.lost is None else "rows are missing"
        damage = _damage(saved, why, self._wall_us(), None)
        sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
        target.execute(sql, (LAST_DAMAGE, json.dumps(damage)))
        log.error("the queue was damaged (%s): %s", why, _figures(saved))


def _differences(connection: sqlite3.Connection, counters: Mapping[str, int]) -> "Counter[str]":
    """What has to be added to the counters so that they say what is in the file."""
    sql = f"SELECT status < {READY} FROM {TABLE} WHERE status < {READY} OR status = {DEAD}"
    found = Counter(row[0] for row in connection.execute(sql))
    changes = recount(connection, TABLE)
    changes.subtract({key: n for key, n in counters.items() if key.startswith(HELD)})
    changes["queued"] = found[1] - counters.get("queued", 0)
    changes["dead"] = found[0] - counters.get("dead", 0)
    more = changes["queued"] + changes["dead"]
    changes["dropped.damaged"] = max(0, -more)
    changes["received"] = max(0, more)
    return Counter({key: n for key, n in changes.items() if n})


def _indexes_are_right(connection: sqlite3.Connection) -> bool:
    """What quick_check leaves out: an important event that its index forgot would never leave."""
    return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")


def _forget_progress(target: sqlite3.Connection) -> None:
    """All of it is done: the names may come again."""
    target.execute("DELETE FROM meta WHERE key LIKE ?", (f"{PROGRESS}%",))
    target.commit()


def _expect_version(version: int) -> None:
    if version < 0 or version > schema.VERSION + VERSIONS:
        raise UnreadableQueue(f"cannot read the queue: found version {version}")
    if version > schema.VERSION:
        raise _Newer(version)


def _expect_tables(file: sqlite3.Connection) -> None:
    """A file that lost a table is damaged; one that was just begun has none of them filled."""
    there = {
        name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }
    missing = {TABLE, *KEYS} - there
    if missing and any(
        file.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in {TABLE, *KEYS} & there
    ):
        names = ", ".join(sorted(missing))
        raise UnreadableQueue(f"cannot read the queue: found no table {names}")


def _in_one_line(damage: UnreadableQueue) -> str:
    """What was found, without what the line says anyway."""
    said = str(damage).replace("*** in database main ***", "")
    for beginning in ("cannot read the queue: ", "cannot use the queue: found damage "):
        said = said.removeprefix(beginning)
    if said.startswith("(") and said.endswith(")"):
        said = said[1:-1]
    return " ".join(said.split())


def _damage(saved: Saved, why: str, now_us: int, path: Path | None) -> dict[str, Any]:
    return {
        "when": datetime.fromtimestamp(now_us / 1e6, UTC).isoformat(timespec="seconds"),
        "why": why,
        "saved": saved.events - saved.damaged,
        "damaged": saved.damaged,
        "lost": saved.lost,
        "file": str(path) if path else "",
    }


def _say_damage(saved: Saved, why: str, path: Path) -> None:
    where = f"the damaged file is kept in {path}"
    if not path.exists():
        where = "the damaged file is not kept: the quarantine has no room for it"
    log.error("the queue was damaged (%s): %s; %s", why, _figures(saved), where)


def _figures(saved: Saved) -> str:
    good, lost = saved.events - saved.damaged, saved.lost
    if lost is None:
        figures = (
            f"saved {good:,} events; nobody can tell how many are lost, because the ledger cannot "
            "be read: it begins anew"
        )
    else:
        figures = (
            f"saved {good:,} of {saved.events + lost:,} events, lost and counted as "
            f"dropped.damaged: {lost:,}"
        )
    more = f"; damaged and kept as dead letters: {saved.damaged:,}" if saved.damaged else ""
    return figures + more


@contextmanager
def _content() -> Iterator[None]:
    """What SQLite and damaged values raise, as what it means."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise unusable(error) from error
    except WRONG_KIND as error:
        raise UnreadableQueue(
            f"cannot read the queue: a value is none that it could have ({type(error).__name__})"
        ) from error


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritten(error) from error


def _let_go(error: BaseException | None) -> None:
    """Close what a failed opening left open.

    A connection that ends after its file was moved would remove the new file's WAL, by its name.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__
    gc.collect()
