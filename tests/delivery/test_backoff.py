"""The wait after a failure grows to five minutes, is never regular, and never less than asked."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.backoff import CAP, FIRST, HOUR, Backoff

UNIT = st.floats(0, 1)


def waits(number, *, draw):
    backoff = Backoff(random=lambda: draw)
    return [backoff.failed() for _ in range(number)]


def test_the_longest_waits_double_from_four_seconds_to_five_minutes():
    assert waits(9, draw=1.0) == [4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_shortest_wait_is_always_two_seconds():
    assert waits(12, draw=0.0) == [FIRST] * 12


def test_jitter_is_full_at_the_cap():
    """A thousand kiosks that lost the same server must not return in the same second."""
    generator = random.Random(1)
    backoff = Backoff(random=generator.random)
    drawn = sorted([backoff.failed() for _ in range(1020)][20:])
    assert drawn[0] < 0.05 * CAP
    assert drawn[-1] > 0.95 * CAP
    assert all(after - before < 0.05 * CAP for before, after in pairwise(drawn))


def test_a_success_starts_again_from_the_beginning():
    backoff = Backoff(random=lambda: 1.0)
    for _ in range(5):
        backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == 4.0


@given(draws=st.lists(UNIT, min_size=1, max_size=50))
def test_a_wait_is_between_two_seconds_and_five_minutes(draws):
    backoff = Backoff(random=iter(draws).__next__)
    assert all(FIRST <= backoff.failed() <= CAP for _ in draws)


@given(draw=UNIT, failures=st.integers(0, 2000), asked=st.floats(0, HOUR))
def test_what_the_server_asked_for_is_the_least_and_no_regular_return(draw, failures, asked):
    backoff = Backoff(random=lambda: draw)
    for _ in range(min(failures, 40)):
        backoff.failed()
    wait = backoff.failed(asked=asked)
    assert wait >= asked
    assert wait <= max(CAP, asked + FIRST)


@pytest.mark.parametrize("asked", [30.0, 3600.0])
def test_devices_that_were_told_the_same_time_do_not_return_together(asked):
    first, second = (Backoff(random=lambda d=d: d).failed(asked=asked) for d in (0.0, 1.0))
    assert (first, second) == (asked, asked + FIRST)


@given(draw=UNIT)
def test_hourly_is_an_hour_give_or_take_a_tenth(draw):
    assert 0.9 * HOUR <= Backoff(random=lambda: draw).hourly() <= 1.1 * HOUR + 1e-6
