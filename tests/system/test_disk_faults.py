"""A disk that is full, read-only, broken or gone: the agent says so, loses nothing, and goes on."""

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.delivery.shipper import UNRECORDED_MAX
from agent.emulator import Fault
from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import HttpPrograms, event, hand_in, ids_of, mqtt_program, post
from tests.asking import ask, at_rest, pause, refuses_with_the_truth, wait_state
from tests.system.disk import Disk, run
from tests.system.sick_disk import SickDisk
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

IMPATIENT = (sys.executable, str(ROOT / "tests" / "impatient_agent.py"))
UNAVAILABLE = Fault("status", status=503)
SMALL = 8  # MiB
MORE = UNRECORDED_MAX + 300


@pytest.fixture
def small(make_disk) -> Disk:
    return make_disk(megabytes=SMALL)


@pytest.fixture
def daemon(small, make_daemon, setup):
    """An agent whose state lies on a small disk; it ends before the disk is unmounted."""
    made = make_daemon(replace(setup, state=small.path / "state"))
    made.write(made.setup.toml() + '\n[queue]\nmax_bytes = "64 MiB"\n')  # the disk is the limit
    made.program = IMPATIENT
    yield made
    made.kill()
    (small.path / "filler").unlink(missing_ok=True)  # the check at the end reads the books


@pytest.fixture
def sick(daemon, tmp_path):
    """What makes its state directory answer EIO."""
    sick = SickDisk(directory=daemon.setup.state, switch=tmp_path / "sick")
    daemon.environ |= sick.environ
    return sick


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    """Nobody may change them, not even root through a file that is open."""
    run("chattr", "+i", *paths)
    try:
        yield
    finally:
        run("chattr", "-i", *[path for path in paths if path.exists()])


def hold(daemon, emulator, numbers) -> None:
    """Have it hold events that it cannot deliver."""
    emulator.fail(UNAVAILABLE)
    for first in range(numbers[0], numbers[-1] + 1, 100):
        hand_in(daemon.setup.http_port, [n for n in range(first, first + 100) if n in numbers])


def arrived(emulator) -> list[int]:
    return sorted(ids_of(emulator.events()))


def each_once(daemon, emulator, numbers) -> None:
    """All of them arrive, none twice, and the ledger says the same."""
    emulator.recover()
    books = daemon.drained()
    assert arrived(emulator) == sorted(numbers)
    assert books.balanced
    assert (books.received, books.sent) == (len(numbers), len(numbers))


# -- a full disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["clean", "killed"])
def test_a_full_disk_drains_through_a_restart_and_goes_on_when_there_is_space(
    daemon, small, emulator, end
):
    emulator.fail(UNAVAILABLE)
    daemon.start()
    filler = small.fill(leave=2 * 1024 * 1024)
    with HttpPrograms(port=daemon.setup.http_port, threads=4) as programs:
        until(lambda: programs.refused, "somebody to be refused", timeout=60)
        small.fill()
        pause(1)
    assert len(programs.acknowledged) > 100
    assert set(programs.refused) == {503}
    seen = refuses_with_the_truth(daemon, "disk_full")
    assert "full" in seen["reason"]
    with at_rest(daemon):
        pass
    # It ends on the full disk, what it gave back is taken by others, and it starts on it.
    if end == "clean":
        assert daemon.end() == 0
    else:
        daemon.kill()
    small.fill()
    daemon.start()
    refuses_with_the_truth(daemon, "disk_full")
    assert programs.acknowledged <= stored(daemon.setup.state)
    emulator.recover()
    daemon.wait(lambda status: status["queue"]["events"] == 0, flush=True)
    assert arrived(emulator) == sorted(set(arrived(emulator))), "something was sent twice"
    assert programs.acknowledged <= set(arrived(emulator))
    assert programs.uncertain == set()
    assert daemon.books().sent == len(arrived(emulator))
    pid = daemon.pid
    filler.unlink()
    wait_state(daemon, "ok")
    assert post(daemon.setup.http_port, "/events", [event(-1)]) == 202
    daemon.wait(lambda _: -1 in arrived(emulator), flush=True)
    assert daemon.pid == pid


@pytest.mark.parametrize("end", ["clean", "killed"])
def test_a_disk_without_any_space_not_even_ballast_is_waited_for(daemon, small, emulator, end):
    """SQLite would die of SIGBUS on it, in the middle of opening."""
    daemon.start()
    hold(daemon, emulator, range(50))
    if end == "clean":
        assert daemon.end() == 0
    daemon.kill()
    (daemon.setup.state / "ballast").unlink()
    filler = small.fill()
    daemon.spawn()
    seen = refuses_with_the_truth(daemon, "disk_full")
    assert "make room" in seen["reason"]
    with at_rest(daemon, lines=0):
        pass
    filler.unlink()
    wait_state(daemon, "ok", "offline")
    each_once(daemon, emulator, range(50))


def test_a_full_disk_holds_what_comes_over_mqtt_and_in_files(
    small, make_daemon, mqtt_setup, broker, emulator
):
    daemon = make_daemon(replace(mqtt_setup, state=small.path / "state"))
    daemon.program = IMPATIENT
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    spool = daemon.setup.state / "spool"
    filler = small.fill(leave=200 * 1024)
    with mqtt_program(broker.port) as program:
        small.fill()
        wait_state(daemon, "disk_full")
        program.publish(range(20))
        program.wait_acknowledged(20)  # by the broker, which keeps them
        daemon.end()
        daemon.start()
        wait_state(daemon, "disk_full")
        assert daemon.books().received == 0
        filler.unlink()
        (spool / ".new").write_text('{"name": "tap", "params": {"id": 20}}')
        (spool / ".new").rename(spool / "a.json")
        daemon.wait(lambda _: set(arrived(emulator)) == set(range(21)), flush=True)
    assert not list(spool.glob("*.json"))


# -- a disk that cannot be written while it runs -----------------------------------------------------


def told_of(daemon, text: str) -> int:
    return sum(text in line for line in daemon.log.splitlines())


def delivers_1000_and_holds_the_rest(daemon, emulator) -> None:
    emulator.recover()
    daemon.flush()
    until(lambda: len(arrived(emulator)) >= UNRECORDED_MAX, daemon.tail)
    with at_rest(daemon, lines=4):
        refuses_with_the_truth(daemon, "read_only")
    assert len(arrived(emulator)) == len(set(arrived(emulator))) == UNRECORDED_MAX
    assert told_of(daemon, "cannot record what became of events") == 1
    assert told_of(daemon, "is not on record: sending nothing more") == 1


def test_permission_lost_delivers_1000_events_and_recovers_without_a_repeat(daemon, emulator):
    daemon.start()
    hold(daemon, emulator, range(MORE))
    state = daemon.setup.state
    pid = daemon.pid
    with immutable(state / "queue.db", state / "queue.db-wal"):
        delivers_1000_and_holds_the_rest(daemon, emulator)
    each_once(daemon, emulator, range(MORE))
    wait_state(daemon, "ok")
    hand_in(daemon.setup.http_port, [MORE])
    assert daemon.pid == pid
    assert told_of(daemon, "what became of every event is on record") == 1


def test_eio_delivers_1000_events_and_recovers_without_a_repeat(daemon, sick, emulator):
    daemon.start()
    hold(daemon, emulator, range(MORE))
    pid = daemon.pid
    sick.fall_ill()
    delivers_1000_and_holds_the_rest(daemon, emulator)
    sick.recover()
    each_once(daemon, emulator, range(MORE))
    wait_state(daemon, "ok")
    assert daemon.pid == pid


def test_a_disk_that_cannot_be_read_either_ends_nothing(daemon, sick, emulator):
    daemon.start()
    hold(daemon, emulator, range(100))
    pid = daemon.pid
    sick.fall_ill(reads=True)
    emulator.recover()
    daemon.flush()
    refuses_with_the_truth(daemon, "read_only")
    with at_rest(daemon, lines=5):
        refuses_with_the_truth(daemon, "read_only")
    sick.recover()
    each_once(daemon, emulator, range(100))
    wait_state(daemon, "ok")
    assert daemon.pid == pid


def test_a_card_that_turns_read_only_is_held_at_the_start_and_drained_when_replaced(
    daemon, small, emulator
):
    """Nothing is sent again and again, boot after boot, from a card that takes no records."""
    daemon.start()
    hold(daemon, emulator, range(50))
    small.break_down()
    refuses_with_the_truth(daemon, "read_only")
    emulator.recover()
    daemon.flush()
    until(lambda: len(arrived(emulator)) == 50, daemon.tail)
    assert daemon.end() == 0
    for _boot in range(2):
        daemon.spawn()
        refuses_with_the_truth(daemon, "read_only")
        pause(1)
        assert daemon.end() == 0
    assert len(arrived(emulator)) == 50
    daemon.spawn()
    wait_state(daemon, "read_only")
    pid = daemon.pid
    small.let_go()
    small.mount_as_another_device()
    wait_state(daemon, "ok", "draining")
    daemon.drained()
    assert daemon.pid == pid
    # What it could not record is sent again, once: 50 of at most 1,000.
    assert sorted(set(arrived(emulator))) == list(range(50))
    assert len(arrived(emulator)) <= 100


# -- a store that it cannot use at the start -----------------------------------------------------------


def starts_and_holds(daemon, emulator) -> None:
    """It waits, delivers nothing although it could, and rests."""
    before = len(emulator.requests())
    daemon.spawn()
    refuses_with_the_truth(daemon, "read_only")
    with at_rest(daemon, lines=0):
        pass
    assert len(emulator.requests()) == before


def test_a_read_only_disk_at_the_start_is_held_and_goes_on_by_itself(daemon, small, emulator):
    daemon.start()
    hold(daemon, emulator, range(50))
    identity = (daemon.setup.state / "identity.json").read_bytes()
    assert daemon.end() == 0
    small.unmount()
    small.mount_as_another_device("ro")
    emulator.recover()
    starts_and_holds(daemon, emulator)
    assert daemon.end() == 0
    starts_and_holds(daemon, emulator)
    pid = daemon.pid
    small.remount("rw")
    wait_state(daemon, "ok", "draining")
    each_once(daemon, emulator, range(50))
    assert daemon.pid == pid
    assert (daemon.setup.state / "identity.json").read_bytes() == identity
    assert len({r.body["client_id"] for r in emulator.requests() if r.path == "/mp/collect"}) == 1


@pytest.mark.parametrize("reads", [False, True])
def test_eio_at_the_start_is_held_and_goes_on_by_itself(daemon, sick, emulator, reads):
    daemon.start()
    hold(daemon, emulator, range(50))
    assert daemon.end() == 0
    emulator.recover()
    sick.fall_ill(reads=reads)
    starts_and_holds(daemon, emulator)
    sick.recover()
    wait_state(daemon, "ok", "draining")
    each_once(daemon, emulator, range(50))


@pytest.mark.parametrize("name", [".", "queue.db", "lock"])
def test_permission_that_is_missing_at_the_start_is_waited_for(daemon, emulator, name):
    daemon.start()
    hold(daemon, emulator, range(50))
    assert daemon.end() == 0
    emulator.recover()
    path = daemon.setup.state / name
    mode = path.stat().st_mode & 0o777
    usual = daemon.program
    # As a service's own user, root must not pass by the modes.
    rights = "-dac_override,-dac_read_search"
    daemon.program = ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *usual)
    path.chmod(0)
    starts_and_holds(daemon, emulator)
    path.chmod(mode)
    wait_state(daemon, "ok", "draining")
    each_once(daemon, emulator, range(50))


# -- a directory that goes while it runs ------------------------------------------------------------------


def ends_once_with_1(daemon) -> None:
    """On purpose, loudly; the next start, systemd's, is an ordinary one."""
    assert daemon.exit_status() == 1
    said = [line for line in daemon.log.splitlines() if " CRITICAL " in line]
    assert len(said) == 1, said
    assert "the state directory was replaced: ending, to start afresh on it" in said[0]
    daemon.start()
    pause(2)
    assert not daemon.died()


def stored(state: Path, name: str = "queue.db") -> set[int]:
    """The numbers of the events in a file of the queue."""
    connection = sqlite3.connect(state / name)
    try:
        rows = connection.execute("SELECT CAST(data AS BLOB) FROM ack_queue_default").fetchall()
    finally:
        connection.close()
    from agent.queue import serializer

    return {serializer.loads(data).params["id"] for (data,) in rows}


@pytest.fixture
def patient(daemon):
    """It ends only after the usual seconds, so that a test can look before."""
    daemon.program = (sys.executable, "-m", "agent", "run")
    return daemon


def test_a_removed_directory_takes_nothing_and_loses_nothing(patient, emulator):
    daemon = patient
    daemon.start()
    hold(daemon, emulator, range(300))
    shutil.rmtree(daemon.setup.state)
    refuses_with_the_truth(daemon, "read_only")
    with at_rest(daemon, lines=3):
        pass
    ends_once_with_1(daemon)
    assert daemon.books().queued == 300
    each_once(daemon, emulator, range(300))


def test_what_is_held_is_delivered_from_a_directory_that_is_gone(patient, emulator):
    daemon = patient
    daemon.start()
    hold(daemon, emulator, range(300))
    shutil.rmtree(daemon.setup.state)
    emulator.recover()  # the usual retries: nobody can tell it to flush
    until(lambda: len(arrived(emulator)) == 300, daemon.tail)
    ends_once_with_1(daemon)
    each_once(daemon, emulator, range(300))


@pytest.mark.parametrize("name", ["queue.db", "queue.db-wal"])
def test_a_removed_file_of_the_queue_is_noticed_too(daemon, emulator, name):
    daemon.start()
    hold(daemon, emulator, range(50))
    (daemon.setup.state / name).unlink()
    ends_once_with_1(daemon)
    assert stored(daemon.setup.state) == set(range(50))
    each_once(daemon, emulator, range(50))


def test_an_unmounted_card_that_comes_back_brings_nothing_twice(daemon, small, emulator):
    daemon.start()
    hold(daemon, emulator, range(50))
    small.let_go()
    ends_once_with_1(daemon)  # on the folder that was below the card
    hold(daemon, emulator, range(50, 60))
    emulator.recover()
    daemon.drained()
    assert daemon.end() == 0
    small.mount()
    daemon.start()
    daemon.drained()
    assert arrived(emulator) == list(range(60))


def test_a_card_that_is_plugged_in_again_brings_nothing_twice(daemon, small, emulator):
    """The same file on another device: all of it is there already."""
    daemon.start()
    hold(daemon, emulator, range(50))
    small.break_down()
    small.let_go()
    small.mount_as_another_device()
    ends_once_with_1(daemon)
    assert not list(daemon.setup.state.glob("queue.v*.db"))
    each_once(daemon, emulator, range(50))


def test_a_restored_backup_keeps_what_came_after_it_beside_it(daemon, emulator, tmp_path):
    daemon.start()
    hold(daemon, emulator, range(50))
    assert daemon.end() == 0
    shutil.copytree(daemon.setup.state, tmp_path / "backup")
    daemon.start()
    hold(daemon, emulator, range(50, 80))
    shutil.rmtree(daemon.setup.state)
    shutil.copytree(tmp_path / "backup", daemon.setup.state)
    assert daemon.exit_status() == 1
    [beside] = daemon.setup.state.glob("queue.v*.db")
    assert stored(daemon.setup.state, beside.name) == set(range(50, 80))
    assert stored(daemon.setup.state) == set(range(50))


def test_a_directory_that_nobody_may_make_is_left_when_everything_was_delivered(
    daemon, small, emulator
):
    """Only systemd can make it, by starting the service anew: no event may wait for that."""
    daemon.start()
    hold(daemon, emulator, range(50))
    shutil.rmtree(daemon.setup.state)
    with immutable(small.path):
        daemon.wait_logged("cannot save what is held")
        assert ask(daemon.setup.http_port, "GET", "/healthz").status == 503
        assert not daemon.died()
        emulator.recover()
        assert daemon.exit_status(timeout=60) == 1
    assert arrived(emulator) == list(range(50))
    assert "everything that waited was delivered" in daemon.log
