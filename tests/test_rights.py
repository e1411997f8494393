"""Root works on the state as its owner, and is root again afterwards."""

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from agent.rights import as_owner

NOBODY = 65534
UNKNOWN = 54_321  # a user whom no database knows, as a dynamic one is while its service is stopped

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture
def place():
    """A folder that all may pass: nobody gets into pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def state(place):
    """A state directory that belongs to nobody."""
    directory = place / "state"
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


def test_afterwards_it_is_root_again_even_after_an_exception(state, place):
    before = (os.geteuid(), os.getegid(), os.umask(0o22))
    with pytest.raises(RuntimeError), as_owner(state):
        raise RuntimeError
    assert (os.geteuid(), os.getegid(), os.umask(before[2])) == (before[0], before[1], 0o22)
    (place / "root's").touch()
    assert (place / "root's").stat().st_uid == 0


def test_a_link_that_the_owner_has_laid_leads_nowhere_that_it_may_not_go(state, place):
    target = place / "of root"
    target.write_text("precious")
    (state / "ballast").symlink_to(target)
    with as_owner(state), pytest.raises(PermissionError):
        (state / "ballast").write_text("overwritten")
    assert target.read_text() == "precious"


@pytest.fixture
def in_many_groups():
    """Root as it comes in by sudo or a login: with groups beside its own."""
    before = os.getgroups()
    os.setgroups([0, 4, 27])
    yield {0, 4, 27}
    os.setgroups(before)


def test_a_link_leads_nowhere_that_only_groups_of_root_may_go(state, place, in_many_groups):
    target = place / "of a group"
    target.write_text("precious")
    os.chown(target, 0, 4)
    target.chmod(0o660)
    (state / "ballast").symlink_to(target)
    with as_owner(state), pytest.raises(PermissionError):
        (state / "ballast").write_text("overwritten")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("user", [NOBODY, UNKNOWN])
def test_inside_it_has_the_groups_of_the_owner_and_afterwards_its_own(state, user, in_many_groups):
    os.chown(state, user, user)
    with as_owner(state):
        assert set(os.getgroups()) == {user}
    assert set(os.getgroups()) == in_many_groups


def test_a_link_shows_nothing_that_only_root_may_read(state, place):
    target = place / "of root"
    target.write_text("precious")
    target.chmod(0o600)
    (state / "identity.json").symlink_to(target)
    with as_owner(state), pytest.raises(PermissionError):
        (state / "identity.json").read_text()


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
