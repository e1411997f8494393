"""The queue's file goes while SQLite has it open: nothing is taken, and all that is held is saved."""

import shutil

import pytest

from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import StorageError
from agent.queue.place import Place
from agent.queue.schema import VERSION

CAP = 64 * 1024 * 1024


@pytest.fixture
def state(tmp_path):
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def queue(state):
    queue = EventQueue.open(state, max_bytes=CAP)
    yield queue
    queue.close()


def names(directory):
    """What the next start finds there."""
    queue = EventQueue.open(directory, max_bytes=CAP)
    found = [row.event.name for row in queue.lease("main", limit=100)]
    assert queue.books.balanced
    queue.close()
    return found


def saved(queue):
    """Save, and let go of the lock that a real process would end with."""
    found = queue.save_displaced()
    queue.tran_lock.release()
    return found


def test_a_queue_in_its_place_takes_events(queue, make_event):
    queue.put_many([make_event()])
    assert not queue.displaced
    assert queue.trouble == ""


@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}-wal"])
def test_a_file_that_is_gone_takes_nothing_and_gives_all(queue, state, make_event, name):
    queue.put_many([make_event("held")])
    (state / name).unlink()
    with pytest.raises(StorageError, match="removed or replaced") as refused:
        queue.put_many([make_event("late")])
    assert refused.value.state == queue.trouble == "read_only"
    queue.mend()
    assert queue.displaced
    [held] = queue.lease("main", limit=25)
    queue.ack_many([held.id])
    assert queue.books.sent == 1


def test_a_directory_that_is_gone_is_no_bug(queue, state, make_event):
    shutil.rmtree(state)
    with pytest.raises(StorageError):
        queue.put_many([make_event()])
    assert queue.trouble == "read_only"
    queue.mend()
    with pytest.raises(StorageError, match="cannot save the queue"):
        queue.save_displaced()
    queue.write_noted()  # the lock was given back


def test_everything_is_saved_to_an_empty_directory_but_what_was_acknowledged(
    queue, state, make_event
):
    queue.put_many([make_event(f"e{n}") for n in range(3)])
    shutil.rmtree(state)
    queue.ack_many([queue.lease("main", limit=1)[0].id])
    state.mkdir()
    found = saved(queue)
    assert (found.path, found.rows) == (state / FILE_NAME, 2)
    assert names(state) == ["e1", "e2"]


def test_what_was_saved_is_not_in_the_old_file_any_more(queue, state, tmp_path, make_event):
    """The card that was unmounted comes back, and brings nothing twice."""
    queue.put_many([make_event("held")])
    state.rename(tmp_path / "card")
    state.mkdir()
    saved(queue)
    assert names(state) == ["held"]
    queue.close()
    assert names(tmp_path / "card") == []


def test_beside_another_file_only_what_that_one_lacks_is_saved(queue, state, tmp_path, make_event):
    queue.put_many([make_event("old")])
    queue._fold()
    shutil.copytree(state, tmp_path / "backup", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    queue.put_many([make_event("new")])
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    found = saved(queue)
    assert (found.path, found.rows) == (state / f"queue.v{VERSION}.db", 1)
    assert names(state) == ["old"]
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(found.path, beside / FILE_NAME)
    assert names(beside) == ["new"]


def test_nothing_is_saved_beside_the_same_content(queue, state, tmp_path, make_event):
    queue.put_many([make_event("held")])
    queue._fold()
    copy = tmp_path / "copy"
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    shutil.rmtree(state)
    copy.rename(state)
    found = saved(queue)
    assert (found.path, found.rows) == (None, 0)
    assert {path.name for path in state.iterdir()} <= {FILE_NAME, "ballast"}


def test_all_is_saved_beside_a_file_that_is_no_queue(queue, state, make_event):
    queue.put_many([make_event("held")])
    (state / FILE_NAME).unlink()
    (state / FILE_NAME).write_bytes(b"no database at all, but long enough to be looked at" * 100)
    assert saved(queue).rows == 1


def test_what_waits_there_already_is_not_replaced(queue, state, make_event):
    queue.put_many([make_event("held")])
    (state / FILE_NAME).unlink()
    (state / FILE_NAME).write_bytes(b"another")
    (state / f"queue.v{VERSION}.db").write_bytes(b"from an earlier time")
    with pytest.raises(StorageError, match="in the way"):
        queue.save_displaced()
    assert (state / f"queue.v{VERSION}.db").read_bytes() == b"from an earlier time"


def test_dead_letters_are_saved_too(queue, state, make_event):
    queue.put_many([make_event("dead")])
    [row] = queue.lease("main", limit=1)
    queue.bury([row.id], reason="refused_400")
    shutil.rmtree(state)
    state.mkdir()
    saved(queue)
    again = EventQueue.open(state, max_bytes=CAP)
    assert (again.books.dead, again.books.received) == (1, 1)
    again.close()


def test_a_file_with_the_same_name_is_another_file(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_bytes(b"first")
    place = Place(path)
    assert not place.displaced
    path.write_bytes(b"written in place")
    assert not place.displaced
    path.rename(tmp_path / "kept")
    path.write_bytes(b"second")
    assert place.displaced
    (tmp_path / "kept").rename(path)
    assert not place.displaced


def test_who_reads_through_it_takes_no_lock_away(queue, state, make_event):
    """Another descriptor that is closed would end SQLite's locks (fcntl)."""
    queue.put_many([make_event()])
    assert queue._place is not None
    assert not queue._place.unreadable
    other = EventQueue.open(state, max_bytes=CAP)
    other.close()  # without our locks it would be the last one, and remove the WAL
    assert not queue.displaced
    queue.put_many([make_event()])


def test_a_disk_whose_writes_are_only_pretended_is_still_in_trouble(queue):
    """An empty commit writes nothing: it must not end the trouble."""
    queue._trouble = "read_only"
    queue._putter.execute("PRAGMA query_only = ON")
    queue.mend()
    assert queue.trouble == "read_only"
    queue._putter.execute("PRAGMA query_only = OFF")
    queue.mend()
    assert queue.trouble == ""
