"""A file is either the old one or the new one, for whom it is meant, and nothing beside it."""

import os
import resource
import stat
from contextlib import contextmanager

import pytest

from agent import atomic_file


@contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def files_of_at_most(size):
    """The kernel refuses to write more: EFBIG, as a full disk would with ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_is_for_its_owner_only_and_nothing_lies_beside_it(tmp_path):
    atomic_file.write(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert names(tmp_path) == ["a"]


def test_the_old_content_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"a much longer old content")
    atomic_file.write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0, 0o027, 0o077])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path, mask):
    with umask(mask):
        atomic_file.write(tmp_path / "a", b"", mode=0o660)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660


def test_the_mode_of_the_old_file_does_not_stay(tmp_path):
    (tmp_path / "a").touch(mode=0o666)
    atomic_file.write(tmp_path / "a", b"", mode=0o640)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_it_is_never_open_to_more_than_its_owner_before_it_is_whole(tmp_path, monkeypatch):
    """The mode is given when the owner is right: others must not read what lies half written."""
    seen = []
    real = os.fchown

    def fchown(descriptor, *owner):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, *owner)

    monkeypatch.setattr(os, "fchown", fchown)
    with umask(0):
        atomic_file.write(tmp_path / "a", b"", mode=0o640, owner=(os.getuid(), os.getgid()))
    assert seen == [0o600]


def test_root_gives_it_to_the_owner_asked_for(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away: run the tests as root")
    atomic_file.write(tmp_path / "a", b"", owner=(65534, 12))
    found = (tmp_path / "a").stat()
    assert (found.st_uid, found.st_gid) == (65534, 12)


def test_without_an_owner_asked_for_it_belongs_to_who_wrote_it(tmp_path):
    atomic_file.write(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_uid == os.geteuid()


def test_what_a_kill_left_is_in_nobodys_way(tmp_path):
    (tmp_path / ".a.new").write_bytes(b"half of something that was longer")
    atomic_file.write(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert names(tmp_path) == ["a"]


def test_a_link_laid_in_its_way_is_not_followed(tmp_path):
    """Root writes in folders of other users, who must not choose what root overwrites."""
    victim = tmp_path / "victim"
    victim.write_text("dear")
    for laid in (".a.new", "a"):
        (tmp_path / laid).symlink_to(victim)
    atomic_file.write(tmp_path / "a", b"new", mode=0o666)
    assert victim.read_text() == "dear"
    assert stat.S_IMODE(victim.stat().st_mode) != 0o666
    assert not (tmp_path / "a").is_symlink()


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path):
    atomic_file.write(tmp_path / "a", b"old")
    with files_of_at_most(10), pytest.raises(OSError, match="File too large"):
        atomic_file.write(tmp_path / "a", b"x" * 11)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_where_a_folder_has_its_name_nothing_is_left(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_file.write(tmp_path / "a", b"")
    assert names(tmp_path) == ["a"]


def test_a_removed_file_is_gone_and_one_that_is_not_there_is_no_error(tmp_path):
    (tmp_path / "a").touch()
    atomic_file.remove(tmp_path / "a")
    atomic_file.remove(tmp_path / "a")
    assert names(tmp_path) == []
