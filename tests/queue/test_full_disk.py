"""A full disk: what is stored still drains, and nothing new is taken until there is room."""

import os
import subprocess
import time

import pytest

from agent.anchor import Moment
from agent.bell import Bell
from agent.clock import Clock
from agent.delivery.backoff import Backoff
from agent.delivery.outlet import Outlet
from agent.delivery.shipper import Shipper
from agent.delivery.transport import Transport
from agent.emulator import Emulator, Fault
from agent.event import Stream
from agent.queue.ballast import Ballast
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.secret import Secret
from agent.stepwise import Stepwise
from agent.urequests import Client
from tests.conftest import STAMP


@pytest.fixture
def mebibytes():
    return 6


@pytest.fixture
def small_disk(tmp_path, mebibytes):
    """A file system of its own that fills up for real, so many MiB of memory."""
    if os.geteuid():
        pytest.skip("needs root, to mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to be allowed to mount a small file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(path):
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x")


def full_queue(directory, make_event, size=200):
    """A queue whose events, of that many bytes, have filled the disk, down to the last byte."""
    queue = EventQueue.open(directory, max_bytes=64 * 1024 * 1024)
    number = min(25, 1_000_000 // size)
    with pytest.raises(StorageError) as full:
        for _ in range(100_000):
            queue.put_many([make_event(params={"text": "x" * size}) for _ in range(number)])
    assert full.value.state == queue.trouble == "disk_full"
    assert queue.books.queued * size > 256 * 1024
    fill(directory / "somebody-elses-file")
    return queue


@pytest.mark.parametrize("mebibytes", [6, 12])
@pytest.mark.parametrize("size", [200, 3_000, 20_000, 60_000, 110_000])
def test_everything_stored_drains_from_a_full_disk_and_then_it_takes_events_again(
    small_disk, make_event, size
):
    """However large the events are: what the WAL holds must fit into the file, too."""
    queue = full_queue(small_disk, make_event, size)
    with pytest.raises(StorageError, match="the disk is full"):
        while True:  # what still fits into the WAL goes in
            queue.put_many([make_event()])
    stored, drained = queue.books.queued, 0
    while leased := queue.lease("main", limit=min(25, max(1, 130_000 // size))):
        queue.ack_many([row.id for row in leased])
        drained += len(leased)
    assert drained == stored
    assert queue.books.balanced
    (small_disk / "somebody-elses-file").unlink()
    queue.mend()
    assert queue.trouble == ""
    queue.put_many([make_event()])
    queue.close()


def test_while_the_ballast_is_gone_nothing_new_is_taken(small_disk, make_event):
    """Room for one event is not room for its acknowledgement."""
    queue = full_queue(small_disk, make_event)
    queue._ballast.spend()
    with (small_disk / "more").open("wb") as file:
        file.write(bytes(900 * 1024))
    with pytest.raises(StorageError, match="the disk is full"):
        queue.put_many([make_event()])
    assert queue.trouble == "disk_full"
    queue.close()


def test_an_outage_that_fills_the_disk_drains_when_it_is_over(small_disk, make_event):
    queue = full_queue(small_disk, make_event)
    stored = queue.books.queued
    with Emulator() as emulator:
        outlet = Outlet(
            stream=Stream(
                name="main", endpoint=emulator.url, measurement_id="G-1", secret=Secret("s")
            ),
            backoff=Backoff(random=lambda: 0.0),
            connections=1,
            monotonic=time.monotonic,
        )
        shipper = Shipper(
            queue=queue,
            outlets=[outlet],
            transport=Transport(client=Client),
            clock=Clock(),
            bell=Bell(),
            stepwise=Stepwise(directory=small_disk),
            max_delay=0.0,
            when=lambda stamp: Moment(stamp.wall_us, 0),
            session_id=lambda _event: 1,
            now_us=lambda: STAMP.wall_us,
            trusted=lambda: True,
            confirm=lambda **_times: None,
        )
        emulator.fail(Fault("status", status=503))
        shipper.ship_once()
        assert shipper.ship_once() > 0
        emulator.recover()
        shipper.flush()
        while shipper.ship_once() == 0:
            pass
        assert len(emulator.events()) == queue.books.sent == stored
    queue.close()


def test_without_ballast_not_even_an_acknowledgement_gets_through(small_disk, make_event):
    """The control: that the test above passes is the ballast's doing."""
    queue = full_queue(small_disk, make_event)
    queue._ballast = None
    queue._fold()  # else the room that the WAL has already could be enough
    fill(small_disk / "another-file")
    with pytest.raises(StorageError, match="the disk is full"):
        while leased := queue.lease("main", limit=25):
            queue.ack_many([row.id for row in leased])
    queue.close()


def test_ballast_holds_real_blocks_and_is_laid_in_again(tmp_path):
    ballast = Ballast(directory=tmp_path, wal=tmp_path / "queue.db-wal")
    assert ballast.spent
    assert ballast.fill()
    [file] = tmp_path.iterdir()
    assert file.stat().st_blocks * 512 >= 1024 * 1024
    ballast.spend()
    assert ballast.spent
    assert ballast.fill()
    assert not ballast.spent
