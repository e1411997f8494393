"""Root works on the state as its owner, and is root again afterwards."""

import os
import stat
import threading

import pytest

from agent.rights import as_owner

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture
def state(tmp_path):
    """A state directory that belongs to nobody."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o750)
    os.chown(directory, NOBODY, NOBODY)
    return directory


@pytest.fixture
def hidden(state):
    """The same behind a directory of root's, as with systemd's DynamicUser."""
    state.parent.chmod(0o700)
    return state


def test_what_is_made_belongs_to_the_owner_and_not_to_others(state):
    with as_owner(state):
        (state / "made").touch()
    made = (state / "made").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY)
    assert stat.S_IMODE(made.st_mode) == 0o640


def test_afterwards_it_is_root_again_even_after_an_exception(state, tmp_path):
    before = (os.geteuid(), os.getegid(), os.umask(0o22))
    with pytest.raises(RuntimeError), as_owner(state):
        raise RuntimeError
    assert (os.geteuid(), os.getegid(), os.umask(before[2])) == (before[0], before[1], 0o22)
    (tmp_path / "root's").touch()
    assert (tmp_path / "root's").stat().st_uid == 0


def test_a_link_that_the_owner_has_laid_leads_nowhere_that_it_may_not_go(state, tmp_path):
    target = tmp_path / "of root"
    target.write_text("precious")
    (state / "ballast").symlink_to(target)
    with as_owner(state), pytest.raises(PermissionError):
        (state / "ballast").write_text("overwritten")
    assert target.read_text() == "precious"


def test_a_directory_behind_one_that_only_root_may_pass_can_be_worked_in(hidden):
    with as_owner(hidden):
        (hidden / "made").write_text("text")
        assert (hidden / "made").read_text() == "text"
    assert (hidden / "made").stat().st_uid == NOBODY


def test_threads_that_are_started_inside_can_pass_too(hidden):
    read = []

    def work():
        (hidden / "made").write_text("by a thread")
        read.append((hidden / "made").read_text())

    with as_owner(hidden):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert read == ["by a thread"]
    assert (hidden / "made").stat().st_uid == NOBODY
