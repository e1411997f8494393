"""Stamps say when, and whether the clock that said so could be believed."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Clock, boot_us, kernel_synchronised, wall_us
from agent.event import Stamp

MICROS = st.integers(0, 2**53)


def clock(*, wall=0, boot=0, boot_id="boot", synchronised=lambda: False):
    return Clock(wall=lambda: wall, boot=lambda: boot, boot_id=boot_id, synchronised=synchronised)


def test_a_stamp_holds_both_clocks_the_boot_and_the_trust():
    made = clock(wall=5, boot=7, boot_id="b", synchronised=lambda: True).stamp()
    assert made == Stamp(wall_us=5, boot_us=7, boot_id="b", trusted=True)


def test_once_trusted_it_is_trusted_for_the_boot():
    answers = iter([False, False, True])
    asked = clock(synchronised=lambda: next(answers))
    assert [asked.trusted for _ in range(5)] == [False, False, True, True, True]


def test_a_clock_that_was_never_set_is_not_trusted():
    assert not clock().trusted
    assert not clock().stamp().trusted


def test_a_stamp_is_trusted_from_the_moment_on_when_the_clock_is():
    answers = iter([False, True])
    asked = clock(synchronised=lambda: next(answers))
    assert [asked.stamp().trusted for _ in range(3)] == [False, True, True]


@given(wall=MICROS, boot=MICROS, passed=MICROS, jump=st.integers(-(2**53), 2**53))
def test_in_one_boot_the_age_is_by_the_boot_clock_however_the_wall_clock_jumps(
    wall, boot, passed, jump
):
    stamp = clock(wall=wall, boot=boot).stamp()
    now = clock(wall=wall + passed + jump, boot=boot + passed)
    assert now.age_s(stamp) == passed / 1e6


@given(wall=MICROS, now=MICROS)
def test_across_boots_the_age_is_by_the_wall_clock_and_never_negative(wall, now):
    stamp = clock(wall=wall, boot=2**53, boot_id="before").stamp()
    age = clock(wall=now, boot_id="after").age_s(stamp)
    assert age == pytest.approx(max(0, now - wall) / 1e6)
    assert age >= 0


def test_the_age_in_this_boot_is_unknown_for_a_stamp_of_another():
    stamp = clock(boot=5_000_000, boot_id="before").stamp()
    assert clock(boot=7_000_000, boot_id="before").age_in_this_boot_s(stamp) == 2.0
    assert clock(boot=7_000_000, boot_id="after").age_in_this_boot_s(stamp) is None


def test_the_real_clocks_go_in_microseconds():
    before = time.time()
    assert before * 1e6 - 1 <= wall_us() <= time.time() * 1e6 + 1
    uptime = float(Path("/proc/uptime").read_text("ascii").split()[0])
    assert abs(boot_us() / 1e6 - uptime) < 5


def test_the_boot_clock_never_goes_back():
    read = [boot_us() for _ in range(1000)]
    assert read == sorted(read)


def test_the_boot_id_is_the_kernels():
    kernels = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    assert Clock().stamp().boot_id == kernels


def test_the_kernel_can_be_asked_whether_ntp_has_set_the_clock():
    """Whatever it says here: it says yes or no, and the same in a stamp."""
    said = kernel_synchronised()
    assert isinstance(said, bool)
    assert Clock().stamp().trusted in (said, True)


# The stamp of an earlier moment

HERE = {"wall": 5_000_000_000, "boot": 60_000_000, "boot_id": "here"}


@pytest.mark.parametrize("trusted", [True, False])
def test_a_moment_in_this_boot_gets_both_clocks_and_the_trust_of_now(trusted):
    now = clock(**HERE, synchronised=lambda: trusted)
    for ago in (0, 1, 59_000_000, 60_000_000):
        made = now.stamp_of(5_000_000_000 - ago)
        assert made == Stamp(5_000_000_000 - ago, 60_000_000 - ago, "here", trusted)
        assert now.age_s(made) == ago / 1e6


def test_a_moment_before_this_boot_has_no_boot_and_no_trust():
    now = clock(**HERE, synchronised=lambda: True)
    assert now.stamp_of(4_939_999_999) == Stamp(4_939_999_999, 0, "", trusted=False)
    assert now.stamp_of(0) == Stamp(0, 0, "", trusted=False)


def test_a_moment_in_the_future_is_now():
    """A copied file, or a clock that was set back."""
    now = clock(**HERE)
    assert now.stamp_of(5_000_000_001) == now.stamp_of(2**53) == now.stamp()


@given(wall=MICROS, boot=MICROS, moment=MICROS)
def test_the_stamp_of_a_moment_is_never_in_the_future_and_never_negative(wall, boot, moment):
    now = clock(wall=wall, boot=boot)
    made = now.stamp_of(moment)
    assert 0 <= made.wall_us <= wall
    assert 0 <= made.boot_us <= boot
    assert made.wall_us == min(wall, moment)
    assert now.age_s(made) == pytest.approx((wall - made.wall_us) / 1e6)


def test_a_stamp_that_this_boot_has_not_reached_yet_is_not_of_this_boot():
    """Else an event of it would wait for others until the clock gets there."""
    clock = Clock(wall=lambda: 10**15, boot=lambda: 5, boot_id="b", synchronised=lambda: False)
    assert clock.age_in_this_boot_s(Stamp(10**15, 6, "b", trusted=False)) is None
    assert clock.age_in_this_boot_s(Stamp(10**15, 5, "b", trusted=False)) == 0
