"""A loop that hangs is told from one that waits, and a slow card from a hang."""

import pytest

from agent.progress import Progress, stuck

PATIENCE = 60.0
STORAGE_PATIENCE = 300.0


class Time:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def make_loop(time):
    def make(name="mqtt", patience=PATIENCE):
        return Progress(name=name, patience=patience, monotonic=time)

    return make


def stuck_names(*loops, committing_s=0.0):
    return stuck(loops, committing_s=committing_s, storage_patience=STORAGE_PATIENCE)


def test_a_loop_that_has_not_begun_is_not_late(make_loop, time):
    loop = make_loop()
    time.now += 10_000
    assert (loop.running, loop.late_s) == (False, 0.0)


@pytest.mark.parametrize(("passed", "late_s"), [(0, 0), (59, 0), (60, 0), (60.5, 0.5), (90, 30)])
def test_a_loop_is_late_from_when_its_next_beat_was_due(make_loop, time, passed, late_s):
    loop = make_loop()
    loop.beat()
    time.now += passed
    assert (loop.running, loop.late_s) == (True, late_s)


def test_known_waits_are_progress(make_loop, time):
    """A loop that waits ten seconds between looks goes round for a day and is never late."""
    loop = make_loop(patience=20.0)
    for _ in range(8640):
        loop.beat()
        time.now += 10
        assert loop.late_s == 0


def test_a_beat_makes_up_for_a_late_one(make_loop, time):
    loop = make_loop()
    loop.beat()
    time.now += 100
    assert loop.late_s == 40
    loop.beat()
    assert loop.late_s == 0


def test_a_loop_that_ended_on_purpose_is_never_late(make_loop, time):
    loop = make_loop()
    loop.beat()
    loop.done()
    time.now += 10_000
    assert (loop.running, loop.late_s) == (False, 0.0)
    assert stuck_names(loop) == ()


def test_the_loops_that_hang_are_named(make_loop, time):
    hanging, going, ended = make_loop("mqtt"), make_loop("http"), make_loop("shipper")
    for loop in (hanging, going, ended):
        loop.beat()
    ended.done()
    time.now += 61
    going.beat()
    assert stuck_names(hanging, going, ended) == ("mqtt",)


@pytest.mark.parametrize(
    ("committing_s", "names"),
    [
        (0.0, ("mqtt",)),
        (9.9, ("mqtt",)),
        (10.0, ()),
        (100.0, ()),
        (STORAGE_PATIENCE, ()),
        (STORAGE_PATIENCE + 0.001, ("storage",)),
    ],
)
def test_a_commit_excuses_loops_that_may_be_waiting_for_it_until_it_hangs_itself(
    make_loop, time, committing_s, names
):
    """The loop is ten seconds late: a commit that began later is not what it waits for."""
    loop = make_loop("mqtt")
    loop.beat()
    time.now += PATIENCE + 10
    assert stuck_names(loop, committing_s=committing_s) == names


def test_a_commit_that_hangs_is_named_even_if_no_loop_is_late(make_loop):
    loop = make_loop()
    loop.beat()
    assert stuck_names(loop, committing_s=STORAGE_PATIENCE + 1) == ("storage",)


def test_all_is_well_without_loops():
    assert stuck_names() == ()
