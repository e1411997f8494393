"""Times of a client's events are apart: GA4 orders events by nothing else."""

import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import Event, Sender, Stamp
from agent.intake.spacing import Spacing

STAMP = Stamp(wall_us=1_800_000_000_000_000, boot_us=1000, boot_id="b", trusted=True)


def event(*, client="1.1", at=0, time_us=None, **stamp):
    """At so many microseconds after the stamp."""
    moved = replace(STAMP, wall_us=STAMP.wall_us + at, boot_us=STAMP.boot_us + at)
    return Event(
        name="tap",
        stream="main",
        sender=Sender(client_id=client),
        stamp=replace(moved, **stamp),
        event_id="e",
        time_us=time_us,
    )


def sent_us(event):
    """The time as GA4 would get it from a right clock."""
    return event.stamp.wall_us if event.time_us is None else event.time_us


def test_an_event_alone_in_its_moment_is_left_as_it_is():
    spacing, one = Spacing(), event()
    assert spacing.apart(one) is one
    other = event(time_us=7)
    assert spacing.apart(other) is other


def test_events_of_one_moment_get_a_microsecond_each_in_the_order_of_arrival():
    spacing = Spacing()
    stamps = [spacing.apart(event()).stamp for _ in range(4)]
    assert [stamp.wall_us - STAMP.wall_us for stamp in stamps] == [0, 1, 2, 3]
    assert [stamp.boot_us - STAMP.boot_us for stamp in stamps] == [0, 1, 2, 3]


def test_a_publisher_s_time_is_moved_and_the_stamp_is_not():
    spacing = Spacing()
    moved = [spacing.apart(event(time_us=5)) for _ in range(3)]
    assert [one.time_us for one in moved] == [5, 6, 7]
    assert {one.stamp for one in moved} == {STAMP}


def test_a_moment_that_another_event_was_moved_to_is_taken():
    """Two at 0 are at 0 and 1; the next one, of 1, must not share it."""
    spacing = Spacing()
    assert [sent_us(spacing.apart(event(time_us=t))) for t in (5, 5, 6, 6, 5, 9)] == [
        5, 6, 7, 8, 9, 10,
    ]  # fmt: skip


def test_clients_do_not_hinder_each_other():
    spacing = Spacing()
    spacing.apart(event(client="1.1"))
    assert spacing.apart(event(client="2.2")).stamp == STAMP


@pytest.mark.parametrize("boot_id", ["b", ""])
def test_times_of_an_untrusted_clock_are_apart_by_what_they_are_corrected_with(boot_id):
    """That is the boot clock, or the wall clock alone where the boot is not known."""
    spacing = Spacing()
    stamp = {"trusted": False, "boot_id": boot_id, "boot_us": 0}
    first, second = (spacing.apart(event(**stamp)).stamp for _ in range(2))
    assert (second.boot_us, second.wall_us) == (first.boot_us + 1, first.wall_us + 1)


def test_times_of_unknown_boots_are_apart_already_if_the_wall_clock_says_so():
    spacing = Spacing()
    stamp = {"trusted": False, "boot_id": "", "boot_us": 0}
    spacing.apart(event(**stamp))
    other = event(at=5, **stamp)
    assert spacing.apart(other) is other


def test_equal_moments_of_two_boots_are_two_moments():
    spacing = Spacing()
    spacing.apart(event(trusted=False))
    other = event(trusted=False, boot_id="c")
    assert spacing.apart(other) is other


def test_a_true_time_is_one_whether_a_publisher_or_this_device_s_clock_told_it():
    spacing = Spacing()
    spacing.apart(event(time_us=STAMP.wall_us))
    assert spacing.apart(event()).stamp.wall_us == STAMP.wall_us + 1


def test_what_is_remembered_is_bounded_and_the_newest():
    spacing = Spacing(moments=100)
    for number in range(1000):
        spacing.apart(event(time_us=number * 10 + 1))
    assert len(spacing._taken) == 100
    assert spacing.apart(event(time_us=1)).time_us == 1
    assert spacing.apart(event(time_us=9991)).time_us == 9992


def test_a_long_burst_at_one_moment_takes_no_time_that_grows_with_its_square():
    """Ten thousand events of an array, then messages of moments in the midst of it."""
    spacing = Spacing(moments=30_000)
    steps = 0

    class Counting(type(spacing._taken)):
        def get(self, key):
            nonlocal steps
            steps += 1
            return super().get(key)

    spacing._taken = Counting()
    for _ in range(10_000):
        spacing.apart(event(time_us=0))
    for number in range(1000):
        spacing.apart(event(time_us=number))
    assert steps < 60_000


def test_a_moment_that_is_used_again_is_remembered_longer():
    spacing = Spacing(moments=4)
    for time_us in (1, 100, 1, 200, 300):
        spacing.apart(event(time_us=time_us))
    assert spacing.apart(event(time_us=1)).time_us == 3
    assert spacing.apart(event(time_us=100)).time_us == 100


@given(st.lists(st.tuples(st.sampled_from(["1.1", "2.2"]), st.integers(0, 12)), max_size=60))
def test_no_client_has_two_events_at_one_time_and_none_is_moved_back_or_far(said):
    spacing = Spacing()
    told = [(c, t, sent_us(spacing.apart(event(client=c, time_us=t)))) for c, t in said]
    for client in ("1.1", "2.2"):
        own = [(t, moved) for c, t, moved in told if c == client]
        assert len({moved for _, moved in own}) == len(own)
        for index, (t, moved) in enumerate(own):
            assert t <= moved <= t + index


@given(st.lists(st.integers(0, 3), max_size=60))
def test_what_comes_in_the_order_of_its_times_keeps_it(steps):
    """As the clock's stamps do: each at or after the one before it."""
    spacing, at, before = Spacing(), 0, -1
    for step in steps:
        at += step
        moved = spacing.apart(event(at=at)).stamp.boot_us
        assert moved > before
        before = moved


def test_threads_get_a_microsecond_each():
    spacing, told = Spacing(), []
    threads = [
        threading.Thread(
            target=lambda: told.extend(spacing.apart(event()).stamp.boot_us for _ in range(200))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == list(range(STAMP.boot_us, STAMP.boot_us + 800))
