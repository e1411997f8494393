"""A worker retries what may get better, ends loudly on a bug, and stops when it is told."""

import logging
import threading

import pytest

from agent.intake.source import SourceUnavailable
from agent.worker import Worker

SOON = 10.0  # seconds; only a hang meets it


@pytest.fixture
def make_worker():
    made = []

    def make(target, *, retry=0.001, on_stop=lambda: None):
        bugs = []
        worker = Worker(
            name="mqtt",
            target=target,
            patience=60.0,
            on_bug=bugs.append,
            on_stop=on_stop,
            retry=retry,
        )
        worker.bugs = bugs
        worker.start()
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.stop()
        assert worker.join(SOON)


class Flaky:
    """A source that is unavailable so many times, each for its reason, and works then."""

    def __init__(self, *reasons):
        self.reasons = list(reasons)
        self.works = threading.Event()
        self.failed = threading.Event()

    def __call__(self, stop, progress):
        progress.beat()
        if self.reasons:
            reason = self.reasons.pop(0)
            if not self.reasons:
                self.failed.set()
            raise SourceUnavailable(reason)
        self.works.set()
        stop.wait()


def test_it_runs_the_target_in_a_thread_of_its_name(make_worker):
    seen = []
    worker = make_worker(lambda *_: seen.append(threading.current_thread().name))
    assert worker.join(SOON)
    assert seen == ["mqtt"] == [worker.name]


def test_a_target_that_ends_is_not_started_again(make_worker):
    runs = []
    worker = make_worker(lambda *_: runs.append(1))
    assert worker.join(SOON)
    assert (runs, worker.bugs, worker.problem) == ([1], [], None)


def test_what_is_unavailable_is_tried_again_until_it_works(make_worker):
    target = Flaky("the port is occupied", "the port is occupied", "the port is occupied")
    worker = make_worker(target)
    assert target.works.wait(SOON)
    assert worker.bugs == []


def test_while_it_is_unavailable_it_says_why(make_worker):
    target = Flaky("the port is occupied")
    worker = make_worker(target, retry=3600.0)
    assert target.failed.wait(SOON)
    while worker.problem is None:
        threading.Event().wait(0.001)  # between the raise and the note of it
    assert worker.problem == "the port is occupied"


def test_once_it_works_again_there_is_no_problem_any_more(make_worker):
    """Else `status` would call the agent degraded for as long as it runs."""
    target = Flaky("the port is occupied")
    worker = make_worker(target)
    assert target.works.wait(SOON)
    assert worker.problem is None


def test_a_problem_that_lasts_is_said_once_and_a_new_one_anew(make_worker, caplog):
    target = Flaky("occupied", "occupied", "occupied", "forbidden", "forbidden")
    with caplog.at_level(logging.INFO, logger="agent.worker"):
        make_worker(target)
        assert target.works.wait(SOON)
    assert [record.getMessage() for record in caplog.records] == [
        "mqtt is degraded: occupied; trying again every 0 s",
        "mqtt is degraded: forbidden; trying again every 0 s",
    ]


def test_between_attempts_no_beat_is_due(make_worker):
    """A wait for a broker of half a minute must not look like a hang."""
    target = Flaky("occupied")
    worker = make_worker(target, retry=3600.0)
    assert target.failed.wait(SOON)
    while worker.problem is None:
        threading.Event().wait(0.001)  # between the raise and the note of it
    assert not worker.progress.running


@pytest.mark.parametrize("bug", [ValueError("a bug"), KeyError("x"), SystemExit(3), MemoryError()])
def test_a_bug_is_handed_on_whatever_it_is_and_not_tried_again(make_worker, bug):
    runs = []

    def target(stop, progress):
        runs.append(1)
        progress.beat()
        raise bug

    worker = make_worker(target)
    assert worker.join(SOON)
    assert worker.bugs == [bug]
    assert runs == [1]
    assert not worker.progress.running


def test_a_bug_after_trouble_is_a_bug(make_worker):
    runs = []

    def target(stop, progress):
        runs.append(1)
        if len(runs) == 1:
            raise SourceUnavailable("occupied")
        raise RuntimeError("a bug")

    worker = make_worker(target)
    assert worker.join(SOON)
    assert [str(bug) for bug in worker.bugs] == ["a bug"]


def test_stop_ends_a_target_that_works(make_worker):
    target = Flaky()
    worker = make_worker(target)
    assert target.works.wait(SOON)
    worker.stop()
    assert worker.join(SOON)


def test_stop_ends_the_wait_for_the_next_attempt(make_worker):
    target = Flaky("occupied")
    worker = make_worker(target, retry=3600.0)
    assert target.failed.wait(SOON)
    worker.stop()
    assert worker.join(SOON)
    assert worker.bugs == []


def test_on_stop_wakes_a_target_that_waits_for_something_else(make_worker):
    bell = threading.Event()
    worker = make_worker(lambda *_: bell.wait(), on_stop=bell.set)
    worker.stop()
    assert worker.join(SOON)


def test_join_says_that_it_has_not_ended(make_worker):
    target = Flaky()
    worker = make_worker(target)
    assert not worker.join(0.01)


def test_when_it_has_ended_no_beat_is_due(make_worker):
    target = Flaky()
    worker = make_worker(target)
    assert target.works.wait(SOON)
    worker.stop()
    assert worker.join(SOON)
    assert not worker.progress.running


def test_it_begins_only_when_those_before_it_have_ended():
    """A reload in the middle of a slow commit: two of the same source would take things twice."""
    free, begun = threading.Event(), threading.Event()

    def make(target, after=()):
        return Worker(name="spool", target=target, patience=60.0, on_bug=print, after=after)

    first = make(lambda *_: free.wait(SOON))
    first.start()
    first.stop()
    second = make(lambda *_: pytest.fail("it was stopped before its turn"), [first])
    second.start()
    second.stop()
    second.join(0.5)
    assert second.is_alive, "its predecessor still works, so its work is not over"
    third = make(lambda *_: begun.set(), [second])
    third.start()
    assert not begun.wait(0.3)
    assert third.progress.running, "so that the watchdog sees it if it lasts"
    free.set()
    assert begun.wait(SOON)
    assert first.join(SOON)
    assert third.join(SOON)
