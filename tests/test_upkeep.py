"""Purging and requeuing by who owns the state: the daemon, or the command itself."""

import itertools
import os
import threading
from contextlib import contextmanager

import pytest

from agent.control import ControlError, ControlSocket, NotRunning, ask
from agent.ownership import LOCK_FILE, AlreadyOwned, StateLock
from agent.progress import Progress
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import StorageError
from agent.queue.pages import ID_MAX, ROWS, Selection
from agent.queue.reader import read_snapshot
from agent.upkeep import Tally, at_work, commands, step_by_step
from tests.waiting import until

CAP = 64 * 1024 * 1024
NOBODY = 65534
WAITING, DEAD_LETTERS = Selection(), Selection(dead=True)


@contextmanager
def daemon(directory, queue, bugs):
    """As much of a daemon as upkeep needs: the lock, the queue, the socket."""
    lock, stop = StateLock.take(directory), threading.Event()
    table = {"status": status, **commands(queue)}
    control = ControlSocket(directory=directory, commands=table, on_bug=bugs.append)
    progress = Progress(name="control", patience=60)
    thread = threading.Thread(target=control.run, args=(stop, progress))
    thread.start()
    try:
        until(lambda: answers(directory), "the control socket")
        yield
    finally:
        stop.set()
        thread.join()
        lock.release()


def status():
    return {}


def answers(directory):
    try:
        ask(directory, "status")
    except NotRunning:
        return False
    return True


@pytest.fixture
def running(queue, tmp_path):
    bugs = []
    with daemon(tmp_path, queue, bugs):
        yield queue
    assert bugs == []


@pytest.fixture
def stopped(tmp_path, make_event):
    """A state directory without a daemon: two events wait, one is dead."""
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event("dead"), make_event("a"), make_event("b")])
    queue.bury([row.id for row in queue.lease("main", limit=1)], reason="refused")
    queue.close()
    return tmp_path


def done(directory, command, selection):
    with at_work(directory) as do:
        return list(step_by_step(do, command, selection))


def test_the_running_daemon_does_it(running, tmp_path, make_event):
    running.put_many([make_event() for _ in range(ROWS + 1)])
    assert done(tmp_path, "purge", WAITING) == [Tally(ROWS), Tally(ROWS + 1)]
    assert running.books.dropped == {"purged": ROWS + 1}
    running.put_many([make_event()])
    running.bury([row.id for row in running.lease("main", limit=1)], reason="refused")
    assert done(tmp_path, "requeue", DEAD_LETTERS) == [Tally(1)]
    assert running.ready("main") == 1


def test_the_daemon_leaves_what_it_is_delivering(running, tmp_path, make_event):
    running.put_many([make_event(), make_event()])
    running.lease("main", limit=1)
    assert done(tmp_path, "purge", WAITING) == [Tally(done=1, kept=1)]


def test_without_a_daemon_the_command_does_it_itself(stopped):
    assert done(stopped, "requeue", DEAD_LETTERS) == [Tally(1)]
    assert done(stopped, "purge", Selection(name="a")) == [Tally(1)]
    books = read_snapshot(stopped).books
    assert (books.queued, books.dead, books.dropped) == (2, 0, {"purged": 1})
    assert books.balanced


def test_without_a_daemon_it_works_on_the_daemons_lock_and_gives_it_back(stopped):
    with at_work(stopped), pytest.raises(AlreadyOwned):
        StateLock.take(stopped)
    StateLock.take(stopped).release()


def test_a_daemon_that_cannot_be_asked_is_not_worked_against(stopped):
    """It is starting, or its socket is broken: its lock says that it is there."""
    lock = StateLock.take(stopped)
    with pytest.raises(AlreadyOwned, match="another ga4-agent works on it"):
        done(stopped, "purge", WAITING)
    lock.release()
    assert read_snapshot(stopped).books.queued == 2


def test_a_daemon_that_ends_meanwhile_is_missed(queue, tmp_path, make_event):
    queue.put_many([make_event() for _ in range(2 * ROWS)])
    bugs = []
    with daemon(tmp_path, queue, bugs), at_work(tmp_path) as do:
        steps = step_by_step(do, "purge", WAITING)
        assert next(steps) == Tally(ROWS)
    with pytest.raises(NotRunning):
        next(steps)
    assert queue.books.dropped == {"purged": ROWS}
    assert bugs == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_root_leaves_no_file_behind_that_the_service_cannot_use(stopped):
    for path in (stopped, *stopped.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    (stopped / "ballast").unlink()
    (stopped / LOCK_FILE).unlink(missing_ok=True)
    stopped.parent.chmod(0o700)  # as with systemd's DynamicUser
    with at_work(stopped) as do:
        list(step_by_step(do, "purge", WAITING))
        during = {path.name: path.stat().st_uid for path in stopped.iterdir()}
    after = {path.name: path.stat().st_uid for path in stopped.iterdir()}
    assert set(during.values()) | set(after.values()) == {NOBODY}
    assert {LOCK_FILE, "ballast", FILE_NAME, f"{FILE_NAME}-wal"} <= during.keys()
    assert os.geteuid() == 0
    assert read_snapshot(stopped).books.dropped == {"purged": 2}


NONSENSE = [
    {"after": -1},
    {"after": 1.5},
    {"after": "1"},
    {"after": None},
    {"after": True},
    {"after": 10**30},
    {"upto": ID_MAX + 1},
    {"upto": [1]},
    {"dead": 1},
    {"dead": "yes"},
    {"stream": 7},
    {"stream": {"$ne": ""}},
    {"name": ["tap"]},
    {"name": "x" * 10_000},
    {"reason": False},
    {"reason": b"x".hex() * 5000},
]


def test_nonsense_is_refused_and_does_nothing(running, tmp_path, make_event):
    running.put_many([make_event(), make_event()])
    running.bury([row.id for row in running.lease("main", limit=1)], reason="refused")
    for command, arguments in itertools.product(("purge", "requeue"), NONSENSE):
        with pytest.raises(ControlError, match="cannot select rows"):
            ask(tmp_path, command, **arguments)
    assert (running.books.queued, running.books.dead) == (1, 1)


def test_an_argument_that_there_is_not_is_refused(running, tmp_path, make_event):
    running.put_many([make_event()])
    with pytest.raises(ControlError, match="expected one of"):
        ask(tmp_path, "purge", everything=True)
    assert running.ready("main") == 1


def test_a_disk_that_refuses_is_no_bug_of_the_daemon(running, tmp_path, make_event, monkeypatch):
    running.put_many([make_event()])

    def refuse(*_args, **_kwargs):
        raise StorageError("read_only", "cannot use the queue's disk: it is worn out")

    monkeypatch.setattr(running, "_durably", refuse)
    with pytest.raises(ControlError, match="worn out"):
        done(tmp_path, "purge", WAITING)
    assert running.ready("main") == 1
