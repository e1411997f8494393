"""Promise 1 for spool files: they are gone after the commit, and kills repeat and lose nothing."""

import itertools
import json
import threading
import time
from contextlib import contextmanager

import pytest

from agent.stepwise import RUN_FILE
from tests.acceptance.publishers import event, ids_of
from tests.waiting import until

LINES = 50  # in a .ndjson file; each is followed by as many .json files
PACE = 0.01  # seconds between files that are dropped while the daemon lives and dies
LATER = 0.005  # seconds by which each kill comes later than the one before


def folder_of(daemon):
    return daemon.setup.state / "spool"


def drop(folder, name, text) -> None:
    hidden = folder / f".{name}"
    hidden.write_text(text)
    hidden.rename(folder / name)


def left(folder):
    return [path.name for path in folder.iterdir() if path.is_file()]


def files(number_of_events):
    """Names and texts of what hands in the events, in both forms."""
    for first in range(0, number_of_events, 2 * LINES):
        numbers = iter(range(first, first + 2 * LINES))
        lines = [json.dumps(event(number)) + "\n" for number in itertools.islice(numbers, LINES)]
        yield f"{first:05}.ndjson", "".join(lines)
        yield from ((f"{number:05}.json", json.dumps(event(number))) for number in numbers)


@contextmanager
def program(folder, number_of_events):
    """Drops half of the files at once, the rest bit by bit; yields the thread that does it."""
    todo = list(files(number_of_events))
    half = len(todo) // 2

    def drop_the_rest():
        for name, text in todo[half:]:
            drop(folder, name, text)
            time.sleep(PACE)

    for name, text in todo[:half]:
        drop(folder, name, text)
    thread = threading.Thread(target=drop_the_rest)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def kill_again_and_again(daemon, thread, *, kills, forget_deaths) -> list[int]:
    """Each time a little later after it has begun to take; what it had taken by then."""
    moments = []
    folder = folder_of(daemon)
    for number in range(kills):
        until(lambda: left(folder) or not thread.is_alive(), "files to be dropped")
        if not left(folder):
            break
        before = daemon.books().received
        daemon.spawn()
        until(lambda before=before: daemon.books().received > before, daemon.tail)
        time.sleep(number * LATER)
        daemon.kill()
        moments.append(daemon.books().received)
        if forget_deaths:  # as if ten minutes lay between them; else it goes step by step
            (daemon.setup.state / RUN_FILE).unlink()
    return moments


@pytest.fixture
def daemon(make_daemon, setup):
    """One that has made its folder, and runs no more."""
    daemon = make_daemon(setup)
    daemon.start()
    until(folder_of(daemon).exists, "the spool folder")
    daemon.end()
    return daemon


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number_of_events", "kills", "forget_deaths"),
    [(2000, 12, True), (500, 6, False)],
    ids=["at full speed", "step by step"],
)
def test_spooled_events_survive_many_kills_and_arrive_exactly_once(
    daemon, emulator, number_of_events, kills, forget_deaths
):
    emulator.stop()  # so that no kill can catch an event between sending and recording
    with program(folder_of(daemon), number_of_events) as thread:
        moments = kill_again_and_again(daemon, thread, kills=kills, forget_deaths=forget_deaths)
    assert len({moment for moment in moments if moment < number_of_events}) >= 3, moments
    daemon.start()
    until(lambda: not left(folder_of(daemon)), lambda: f"an empty folder\n{daemon.tail()}")
    emulator.start()
    books = daemon.drained()
    arrived = ids_of(emulator.events())
    # Step by step, what it touches when it is killed is kept as a dead letter.
    assert books.dead <= (0 if forget_deaths else len(moments))
    assert len(set(arrived)) == len(arrived) == books.sent == number_of_events - books.dead
    assert books.received == number_of_events
    assert (books.refused, list(folder_of(daemon).glob("bad/*"))) == ({}, [])


def test_a_file_that_was_left_while_the_daemon_was_down_is_delivered(daemon, emulator):
    drop(folder_of(daemon), "x.json", json.dumps(event(7)))
    daemon.start()
    assert emulator.wait_for(lambda: ids_of(emulator.events()) == [7], 15)
    until(lambda: not left(folder_of(daemon)), "an empty folder")


def test_what_cannot_be_read_in_the_folder_is_told_in_the_status(daemon):
    (folder_of(daemon) / "x.json").symlink_to("/etc/hostname")
    daemon.start()
    status = daemon.wait(lambda status: status["sources"]["spool"]["problem"])
    assert "x.json: found a link, expected a file" in status["sources"]["spool"]["problem"]
