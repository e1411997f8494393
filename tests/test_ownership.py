"""One process owns the state directory, and only as long as it lives."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.ownership import LOCK_FILE, AlreadyOwned, StateLock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from agent.ownership import AlreadyOwned, StateLock
try:
    lock = StateLock.take(Path(sys.argv[1]))
except AlreadyOwned as error:
    sys.exit(str(error))
print("holds", flush=True)
sys.stdin.read()
"""


def other_process(directory):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    with other_process(tmp_path) as process:
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_second_taker_is_told_what_to_do(tmp_path):
    lock = StateLock.take(tmp_path)
    with pytest.raises(AlreadyOwned) as refused:
        StateLock.take(tmp_path)
    lock.release()
    assert str(refused.value) == (
        f"cannot use {tmp_path}: another ga4-agent works on it; "
        "stop that one first (systemctl stop ga4-agent)"
    )


def test_another_process_is_refused_too(tmp_path):
    lock = StateLock.take(tmp_path)
    with other_process(tmp_path) as process:
        _, said = process.communicate(timeout=30)
    lock.release()
    assert process.returncode == 1
    assert "another ga4-agent works on it" in said


def test_what_another_process_holds_is_refused(tmp_path, holder):
    with pytest.raises(AlreadyOwned):
        StateLock.take(tmp_path)


def test_a_kill_gives_it_up(tmp_path, holder):
    holder.kill()
    holder.wait(10)
    StateLock.take(tmp_path).release()


def test_what_was_released_can_be_taken_again(tmp_path):
    for _ in range(3):
        StateLock.take(tmp_path).release()


def test_a_refused_taker_leaves_no_descriptor_behind(tmp_path):
    lock = StateLock.take(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(AlreadyOwned):
            StateLock.take(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    lock.release()


def test_a_program_that_the_owner_starts_does_not_inherit_it(tmp_path):
    """Else a child that outlives the daemon would keep the next one out."""
    lock = StateLock.take(tmp_path)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    lock.release()
    try:
        StateLock.take(tmp_path).release()
    finally:
        child.kill()
        child.wait()


def test_the_lock_is_no_secret_and_not_for_others(tmp_path):
    StateLock.take(tmp_path).release()
    assert (tmp_path / LOCK_FILE).stat().st_mode & 0o137 == 0


def test_two_directories_have_two_owners(tmp_path):
    locks = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        locks.append(StateLock.take(tmp_path / name))
    for lock in locks:
        lock.release()
    assert len(locks) == 2
