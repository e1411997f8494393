"""Damaged files are kept, whole and bounded; a kill in the middle of a move loses nothing."""

import json

import pytest

from agent import crash_point
from agent.queue.quarantine import (
    Quarantine,
    files_set_aside,
    finish_move,
    move,
    remove,
    set_aside,
    wal_of,
)

KB = 1024


class Killed(BaseException):
    """As a SIGKILL: nothing after it is done."""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "queue.db"

    def make(size=3, wal=b"wal"):
        path.write_bytes(b"d" * size)
        if wal is not None:
            wal_of(path).write_bytes(wal)
            wal_of(path, "-shm").write_bytes(b"shm")
        return path

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_damaged_file_is_moved_with_its_wal_and_without_what_is_of_no_use(tmp_path, database):
    quarantine = Quarantine(tmp_path, max_bytes=1000 * KB)
    case = quarantine.admit(database())
    assert case.read_bytes() == b"ddd"
    assert wal_of(case).read_bytes() == b"wal"
    assert names(tmp_path) == ["quarantine"]
    assert names(tmp_path / "quarantine") == ["damaged-0001.db", "damaged-0001.db-wal"]
    assert (tmp_path / "quarantine").stat().st_mode & 0o777 == 0o700
    assert quarantine.size == 6


def test_a_case_is_pending_until_its_reason_is_written(tmp_path, database):
    quarantine = Quarantine(tmp_path, max_bytes=1000 * KB)
    case = quarantine.admit(database())
    assert quarantine.pending() == [case]
    quarantine.close(case, {"why": "cut off"})
    assert quarantine.pending() == []
    assert json.loads(case.with_suffix(".json").read_text()) == {"why": "cut off"}


def test_a_file_that_is_gone_makes_an_empty_case(tmp_path, database):
    database().unlink()
    case = Quarantine(tmp_path, max_bytes=1000 * KB).admit(tmp_path / "queue.db")
    assert case.read_bytes() == b""
    assert wal_of(case).read_bytes() == b"wal"


def fill(tmp_path, database, sizes, max_bytes):
    for size in sizes:
        quarantine = Quarantine(tmp_path, max_bytes=max_bytes)
        quarantine.close(quarantine.admit(database(size * KB, wal=None)), {"size": size})
    return names(tmp_path / "quarantine")


def test_the_newest_are_kept_up_to_an_eighth_of_the_cap(tmp_path, database):
    assert fill(tmp_path, database, [40, 40, 40, 40], 800 * KB) == [
        "damaged-0003.db",
        "damaged-0003.json",
        "damaged-0004.db",
        "damaged-0004.json",
    ]


def test_the_newest_is_kept_up_to_a_quarter_of_the_cap(tmp_path, database):
    assert fill(tmp_path, database, [40, 190], 800 * KB) == ["damaged-0002.db", "damaged-0002.json"]


def test_of_one_that_is_larger_only_the_reason_is_kept(tmp_path, database):
    assert fill(tmp_path, database, [201], 800 * KB) == ["damaged-0001.json"]
    assert Quarantine(tmp_path, max_bytes=800 * KB).size < KB


def test_a_number_is_never_used_again(tmp_path, database):
    fill(tmp_path, database, [201], 800 * KB)
    assert Quarantine(tmp_path, max_bytes=1).admit(database()).name == "damaged-0002.db"


def test_what_is_pending_is_never_removed(tmp_path, database):
    quarantine = Quarantine(tmp_path, max_bytes=8 * KB)
    cases = [quarantine.admit(database(5 * KB)) for _ in range(3)]
    quarantine.trim()
    assert quarantine.pending() == cases[::-1]


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_kill_while_the_bound_is_kept_leaves_it_to_the_next_start(
    tmp_path, database, monkeypatch, moment
):
    fill(tmp_path, database, [40, 40], 800 * KB)
    reached = []

    def die(name):
        assert name == "rotate.middle"
        reached.append(name)
        if len(reached) == moment:
            raise Killed

    monkeypatch.setattr(crash_point, "reached", die)
    small = Quarantine(tmp_path, max_bytes=100 * KB)
    if moment <= 3:  # the newest one's database, and both files of the older one
        with pytest.raises(Killed):
            small.trim()
    monkeypatch.undo()
    small.trim()
    assert names(tmp_path / "quarantine") == ["damaged-0002.json"]


@pytest.mark.parametrize("step", ["before the database", "after the database"])
def test_a_kill_in_the_middle_of_a_move_loses_no_wal(tmp_path, database, monkeypatch, step):
    path, place = database(), tmp_path / "queue.v9.db"
    calls = []

    def die(_directory):
        calls.append(1)
        if len(calls) == (1 if step == "before the database" else 2):
            raise Killed

    monkeypatch.setattr("agent.atomic_file.sync_directory", die)
    with pytest.raises(Killed):
        move(path, place)
    monkeypatch.undo()
    finish_move(path, [place])
    if step == "before the database":
        assert wal_of(path).read_bytes() == b"wal"
        move(path, place)
    assert names(tmp_path) == ["queue.v9.db", "queue.v9.db-wal"]
    assert wal_of(place).read_bytes() == b"wal"


def test_a_wal_that_is_nobodys_stays(tmp_path, database):
    path = database()
    path.unlink()
    other = tmp_path / "queue.v9.db"
    wal_of(other).write_bytes(b"another")
    finish_move(path, [other])
    assert wal_of(path).read_bytes() == b"wal"


def test_a_file_system_without_links_gets_a_copy(tmp_path, database, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr("os.link", refuse)
    place = tmp_path / "queue.v9.db"
    move(database(), place)
    assert wal_of(place).read_bytes() == b"wal"
    assert not wal_of(tmp_path / "queue.db").exists()


def test_files_that_are_set_aside_say_their_version(tmp_path, database):
    assert set_aside(database(), 12).name == "queue.v12.db"
    assert set_aside(database(), 12).name == "queue.v12.2.db"
    (tmp_path / "queue.vx.db").touch()
    assert sorted(files_set_aside(tmp_path).values()) == [12, 12]
    for path in files_set_aside(tmp_path):
        remove(path)
    assert names(tmp_path) == ["queue.vx.db"]
