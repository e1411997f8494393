"""Stamps say when, and whether the clock that said so could be believed."""

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.anchor import EARLIEST_US, SHOWINGS, UNKNOWN_US, Anchor
from agent.clock import (
    DATE_ERROR_US,
    LONGEST_EXCHANGE_US,
    NTP_ERROR_US,
    Clock,
    boot_us,
    kernel_synchronised,
    wall_us,
)
from agent.event import Stamp
from tests.fake_clock import FakeClock

MICROS = st.integers(0, 2**53)
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_800_000_000 * SECOND
TRUE_START = 1_800_000_000 * SECOND  # the true time at which the device below began
WRONG = TRUE_START - DAY * 400  # by which its wall clock is behind at first


class Device:
    """A machine: its boot clock is true, its wall clock shows whatever it was set to."""

    def __init__(self, *, behind=WRONG, drift=0.0):
        self.boot = 0
        self.behind = behind
        self.ntp = False
        self.drift = drift
        self.clock = self.process()

    def process(self):
        return Clock(
            wall=lambda: self.true - self.behind,
            boot=lambda: self.boot,
            boot_id="b",
            synchronised=lambda: self.ntp,
        )

    @property
    def true(self):
        return TRUE_START + self.boot + round(self.boot * self.drift)

    def wait(self, us):
        self.boot += us

    def set_by_ntp(self):
        self.behind, self.ntp = 0, True

    def answer(self, *, out=0, back=0, clock=None):
        """A server's Date names the second in which it was made."""
        sent = self.boot
        self.wait(out)
        date = self.true // SECOND * SECOND
        self.wait(back)
        (clock or self.clock).confirm(
            server_us=date + DATE_ERROR_US,
            error_us=DATE_ERROR_US,
            sent_boot_us=sent,
            received_boot_us=self.boot,
        )


def clock(*, wall=0, boot=0, boot_id="boot", synchronised=lambda: False):
    return Clock(wall=lambda: wall, boot=lambda: boot, boot_id=boot_id, synchronised=synchronised)


def test_a_stamp_holds_both_clocks_the_boot_and_the_trust():
    made = clock(wall=NOW, boot=7, boot_id="b", synchronised=lambda: True).stamp()
    assert made == Stamp(wall_us=NOW, boot_us=7, boot_id="b", trusted=True)


def test_once_trusted_it_is_trusted_for_the_boot():
    """The kernel's flag falls back after some hours offline."""
    answers = iter([False, False, True, False, False])
    device = Device(behind=0)
    asked = Clock(
        wall=lambda: device.true,
        boot=lambda: device.boot,
        boot_id="b",
        synchronised=lambda: next(answers),
    )
    trusted = []
    for _ in range(4):
        trusted.append(asked.trusted)
        device.wait(HOUR)
    assert trusted == [False, True, True, True]


def test_a_clock_that_was_never_set_is_not_trusted():
    assert not clock().trusted
    assert not clock().stamp().trusted


def test_a_stamp_is_trusted_from_the_moment_on_when_the_clock_is():
    answers = iter([False, False, True])
    asked = clock(wall=NOW, synchronised=lambda: next(answers))
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

HERE = {"wall": NOW, "boot": 60_000_000, "boot_id": "here"}


@pytest.mark.parametrize("trusted", [True, False])
def test_a_moment_in_this_boot_gets_both_clocks_and_the_trust_of_now(trusted):
    now = clock(**HERE, synchronised=lambda: trusted)
    for ago in (0, 1, 59_000_000, 60_000_000):
        made = now.stamp_of(NOW - ago)
        assert made == Stamp(NOW - ago, 60_000_000 - ago, "here", trusted)
        assert now.age_s(made) == ago / 1e6


def test_a_moment_before_this_boot_has_no_boot_and_no_trust():
    now = clock(**HERE, synchronised=lambda: True)
    assert now.stamp_of(NOW - 60_000_001) == Stamp(NOW - 60_000_001, 0, "", trusted=False)
    assert now.stamp_of(0) == Stamp(0, 0, "", trusted=False)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_moment_in_the_future_is_now(trusted):
    """A copied file."""
    now = clock(**HERE, synchronised=lambda: trusted)
    assert now.stamp_of(NOW + 1) == now.stamp_of(2**60) == now.stamp()


@given(wall=MICROS, boot=MICROS, moment=MICROS)
def test_the_stamp_of_a_moment_is_never_in_the_future_and_never_negative(wall, boot, moment):
    now = clock(wall=wall, boot=boot)
    made = now.stamp_of(moment)
    assert 0 <= made.wall_us <= wall
    assert 0 <= made.boot_us <= boot
    assert made.wall_us == min(wall, moment)
    assert now.age_s(made) == pytest.approx((wall - made.wall_us) / 1e6)


def test_a_time_noted_before_the_jump_is_the_same_moment_after_it():
    """A file was written under the wrong clock; it is read when the clock is right."""
    device = Device()
    device.wait(HOUR)
    written, at = device.true - device.behind, device.boot
    device.wait(HOUR)
    device.clock.note_offset()
    device.set_by_ntp()
    device.wait(HOUR)
    assert device.clock.stamp_of(written) == Stamp(TRUE_START + at, at, "b", trusted=True)
    assert device.clock.stamp_of(device.true - 1).boot_us == device.boot - 1


def test_without_trust_a_time_noted_before_the_jump_keeps_what_the_wall_clock_said():
    device = Device()
    device.wait(HOUR)
    written = device.true - device.behind
    device.clock.note_offset()
    device.behind -= DAY
    device.wait(HOUR)
    assert device.clock.stamp_of(written) == Stamp(written, HOUR, "b", trusted=False)


def test_a_time_that_the_wall_clock_showed_twice_has_no_boot():
    """Set back by an hour, it shows the hour again."""
    device = Device(behind=0)
    device.wait(2 * HOUR)
    device.clock.note_offset()
    device.behind = HOUR
    device.wait(HOUR)
    twice = TRUE_START + 3 * HOUR // 2
    assert device.clock.stamp_of(twice) == Stamp(twice, 0, "", trusted=False)
    assert device.clock.stamp_of(TRUE_START + HOUR // 2).boot_us == HOUR // 2


def test_a_time_between_the_last_look_before_a_jump_and_the_first_after_it_is_found():
    device = Device()
    device.wait(HOUR)
    device.clock.note_offset()
    device.wait(SECOND)
    device.set_by_ntp()
    device.wait(SECOND)
    written, at = device.true, device.boot
    device.wait(HOUR)
    assert device.clock.stamp_of(written).boot_us == at


def test_a_clock_that_is_set_all_the_time_costs_no_memory():
    device = Device()
    for _ in range(1000):
        device.wait(SECOND)
        device.behind += HOUR
        device.clock.note_offset()
    assert len(device.clock.showings) == SHOWINGS
    assert device.clock.showings[0].from_us == 0


def test_a_stamp_that_this_boot_has_not_reached_yet_is_not_of_this_boot():
    """Else an event of it would wait for others until the clock gets there."""
    clock = Clock(wall=lambda: 10**15, boot=lambda: 5, boot_id="b", synchronised=lambda: False)
    assert clock.age_in_this_boot_s(Stamp(10**15, 6, "b", trusted=False)) is None
    assert clock.age_in_this_boot_s(Stamp(10**15, 5, "b", trusted=False)) == 0


# Trust


def test_before_2025_the_kernel_is_not_believed_that_ntp_has_set_the_clock():
    assert not clock(wall=EARLIEST_US - 1, synchronised=lambda: True).trusted
    assert clock(wall=EARLIEST_US, synchronised=lambda: True).trusted


def test_nobody_knows_how_wrong_an_untrusted_clock_is():
    now = clock(wall=NOW)
    assert (now.trust, now.now_us(), now.error_us, now.anchor) == ("", NOW, UNKNOWN_US, None)


def test_ntp_vouches_to_50_ms():
    now = clock(wall=NOW, synchronised=lambda: True)
    assert (now.trust, now.now_us(), now.error_us) == ("ntp", NOW, NTP_ERROR_US)


@given(boot=st.integers(0, DAY), out=st.integers(0, 3 * SECOND), share=st.floats(0, 1))
def test_a_date_of_an_exchange_of_3_s_or_less_brings_the_time_to_2_s(boot, out, share):
    device = Device()
    device.wait(boot)
    device.answer(out=round(out * share), back=out - round(out * share))
    assert device.clock.trust == "date"
    assert abs(device.clock.now_us() - device.true) <= device.clock.error_us <= 2 * SECOND
    stamp = device.clock.stamp()
    assert abs(stamp.wall_us - device.true) <= device.clock.error_us
    assert stamp.trusted
    assert device.clock.wall_us() == device.true - WRONG


def test_an_exchange_that_took_too_long_says_nothing():
    device = Device()
    device.answer(out=LONGEST_EXCHANGE_US, back=1)
    assert not device.clock.trusted
    device.answer(out=LONGEST_EXCHANGE_US, back=0)
    assert device.clock.trusted


def test_a_server_that_lives_before_2025_is_not_believed():
    device = Device()
    now = {"error_us": DATE_ERROR_US, "sent_boot_us": 0, "received_boot_us": 0}
    device.clock.confirm(server_us=EARLIEST_US - 1, **now)
    assert not device.clock.trusted


def test_ntp_is_better_than_a_date():
    device = Device()
    device.answer(out=SECOND, back=SECOND)
    assert device.clock.trust == "date"
    device.set_by_ntp()
    assert device.clock.trust == "ntp"
    device.wait(SECOND)  # while the time waits, if the Date was ahead
    assert (device.clock.trust, device.clock.error_us) == ("ntp", NTP_ERROR_US)
    device.answer(out=0, back=SECOND)
    assert (device.clock.trust, device.clock.error_us) == ("ntp", NTP_ERROR_US)


@given(trips=st.lists(st.tuples(*[st.integers(0, 3 * SECOND)] * 3), min_size=2, max_size=20))
def test_many_dates_narrow_each_other_and_the_truth_stays_between_them(trips):
    device = Device(drift=5e-5)
    errors = []
    for pause, out, back in trips:
        device.wait(pause)
        device.answer(out=out, back=back)
        errors.append(device.clock.anchor.error_us)
        assert abs(device.clock.now_us() - device.true) <= device.clock.error_us
        assert abs(device.clock.anchor.offset_us + device.boot - device.true) <= errors[-1]
    assert DATE_ERROR_US <= errors[-1] <= errors[0] + 200 * SECOND // 10_000


def test_the_error_grows_while_nobody_vouches_and_a_date_mends_it():
    device = Device(drift=5e-5)
    device.set_by_ntp()
    assert device.clock.error_us == NTP_ERROR_US
    device.ntp = False
    errors = []
    for _ in range(10):
        device.wait(DAY)
        errors.append(device.clock.error_us)
        assert abs(device.clock.now_us() - device.true) <= errors[-1]
    assert errors == sorted(errors)
    assert errors[-1] == pytest.approx(10 * DAY / 10_000 + NTP_ERROR_US)
    device.answer(back=SECOND)
    assert device.clock.error_us <= 2 * SECOND
    assert device.clock.trust == "date"


def test_once_trusted_the_wall_clock_may_jump_without_the_time():
    """Somebody sets it by hand: the kernel then says that it is not NTP's any more."""
    device = Device()
    device.set_by_ntp()
    assert device.clock.trusted
    device.behind, device.ntp = 5 * HOUR, False
    device.wait(SECOND)
    assert device.clock.now_us() == device.clock.stamp().wall_us == device.true


def test_a_step_by_ntp_itself_is_the_new_truth_at_once():
    device = Device()
    device.behind, device.ntp = 5 * HOUR, True
    assert device.clock.stamp().wall_us == device.true - 5 * HOUR
    device.behind = 0
    device.wait(1)
    assert device.clock.stamp().wall_us == device.true


def test_a_date_that_contradicts_the_last_one_is_the_new_truth():
    device = Device()
    wrong = TRUE_START + HOUR
    now = {"error_us": DATE_ERROR_US, "sent_boot_us": 0, "received_boot_us": 0}
    device.clock.confirm(server_us=wrong, **now)
    assert device.clock.now_us() == wrong
    device.answer()
    assert abs(device.clock.stamp().wall_us - device.true) <= DATE_ERROR_US


def test_a_restarted_process_takes_over_the_trust_of_its_boot():
    device = Device()
    device.wait(HOUR)
    written, at = device.true - device.behind, device.boot
    device.set_by_ntp()
    first = device.process()
    assert first.trusted
    device.ntp = False
    device.behind = -DAY
    device.wait(HOUR)
    second = device.process()
    assert not second.trusted
    device.clock.note_offset()
    second.adopt(first.anchor, device.clock.showings)
    assert (second.trust, second.now_us()) == ("ntp", device.true)
    assert second.error_us == NTP_ERROR_US + HOUR // 10_000
    assert second.stamp_of(written).boot_us == at


def test_what_a_clock_knows_itself_is_not_replaced_by_what_another_knew():
    device = Device()
    device.set_by_ntp()
    anchor = Anchor(offset_us=0, error_us=1, source="date", from_us=0, to_us=0)
    device.clock.adopt(anchor)
    assert device.clock.trust == "ntp"


def test_a_pause_between_the_two_clocks_is_not_taken_for_an_offset():
    """The process is put to sleep between the readings; the next ones are close."""
    ticks = iter([0, 5 * SECOND, 5 * SECOND, 5 * SECOND + 10])
    read = Clock(
        wall=lambda: NOW, boot=lambda: next(ticks), boot_id="b", synchronised=lambda: False
    )
    assert read.showings[0].offset_us == NOW - 5 * SECOND - 5


# Order


def test_no_two_stamps_of_a_process_have_the_same_boot_time_and_trusted_ones_not_the_same_time():
    frozen = clock(wall=NOW, boot=7, synchronised=lambda: True)
    stamps = [frozen.stamp() for _ in range(100)]
    assert all(a.boot_us < b.boot_us and a.wall_us < b.wall_us for a, b in pairwise(stamps))
    assert frozen.age_in_this_boot_s(stamps[-1]) == 0


def test_many_threads_never_get_the_same_stamp():
    shared, stamps = Clock(boot_id="b", synchronised=lambda: True), []
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        stamps.extend([shared.stamp() for _ in range(500)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({s.boot_us for s in stamps}) == len({s.wall_us for s in stamps}) == 2000


DATES = st.lists(
    st.tuples(
        st.integers(0, HOUR),
        st.integers(0, LONGEST_EXCHANGE_US // 2),
        st.integers(0, LONGEST_EXCHANGE_US // 2),
    )
)


@given(dates=DATES, begins=st.integers(0, SECOND), ntp=st.booleans())
def test_a_correction_within_the_claimed_errors_never_lets_the_time_go_back(dates, begins, ntp):
    """The first exchange holds the set-up of a connection, the next ones do not."""
    device = Device(drift=5e-5)
    device.wait(begins)
    stamps, nows = [], []
    for pause, out, back in dates:
        device.answer(out=out, back=back)
        stamps.append(device.clock.stamp())
        nows.append(device.clock.now_us())
        device.wait(pause)
    if ntp:
        device.set_by_ntp()
        stamps.append(device.clock.stamp())
    assert all(a.wall_us < b.wall_us for a, b in pairwise(stamps))
    assert nows == sorted(nows)


def test_a_second_answer_over_the_open_connection_does_not_turn_the_time_back():
    device = Device()
    device.answer(out=6 * SECOND)
    first = device.clock.stamp()
    assert first.wall_us - device.true > 2 * SECOND
    device.answer(back=60_000)
    second = device.clock.stamp()
    assert second.wall_us > first.wall_us
    assert abs(second.wall_us - device.true) <= device.clock.error_us
    device.wait(4 * SECOND)
    assert abs(device.clock.stamp().wall_us - device.true) <= device.clock.error_us < SECOND


def test_a_restarted_process_does_not_turn_the_time_back_either():
    device = Device()
    device.answer(out=6 * SECOND)
    device.answer()
    told = device.clock.stamp()
    device.ntp, device.behind = True, 0
    for knows_itself in (True, False):
        device.ntp = knows_itself
        second = device.process()
        second.adopt(device.clock.anchor)
        assert second.stamp().wall_us >= told.wall_us


@given(steps=st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(-SECOND, SECOND))))
def test_a_correction_by_a_second_or_less_never_lets_the_time_go_back(steps):
    device = Device(behind=0)
    device.ntp = True
    stamps = [device.clock.stamp()]
    for passed, step in steps:
        device.wait(passed)
        device.behind = step // 2  # so that two in a row are at most a second apart
        stamps.append(device.clock.stamp())
    assert all(a.wall_us < b.wall_us for a, b in pairwise(stamps))
    assert all(a.boot_us < b.boot_us for a, b in pairwise(stamps))


# The real thing

CHILD = """
import sys
from agent.clock import Clock
clock = Clock()
for line in sys.stdin:
    if line.startswith("confirm"):
        now = int(line.split()[1])
        boot = clock.boot_us()
        clock.confirm(server_us=now, error_us=500_000, sent_boot_us=boot, received_boot_us=boot)
    stamp = clock.stamp()
    print(stamp.wall_us, stamp.boot_us, stamp.boot_id, clock.trust or "none", flush=True)
"""


def test_a_real_process_lives_through_1970_and_the_jump(tmp_path):
    """Stamps of 1970 are repaired by the boot clock once NTP or a Date has brought the time."""
    machine = FakeClock(tmp_path)
    machine.reboot(wall=1000)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=machine.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:

        def ask(line="stamp"):
            true = time.time()
            child.stdin.write(f"{line}\n")
            child.stdin.flush()
            wall, boot, boot_id, trust = child.stdout.readline().split()
            return true, int(wall) / 1e6, int(boot) / 1e6, boot_id, trust

        true_1970, wall, boot_1970, boot_id, trust = ask()
        assert wall == pytest.approx(1000, abs=20)
        assert 0 < boot_1970 < 20
        assert (boot_id, trust) == (machine.boot_id, "none")
        true, wall, boot, _, trust = ask(f"confirm {int(time.time() * 1e6)}")
        assert (wall, trust) == (pytest.approx(true, abs=0.9), "date")
        assert wall - (boot - boot_1970) == pytest.approx(true_1970, abs=0.9)
        machine.set_offset(0)
        machine.synchronise()
        true, wall, boot, _, trust = ask()
        assert (wall, trust) == (pytest.approx(true, abs=0.9), "ntp")
        assert wall - (boot - boot_1970) == pytest.approx(true_1970, abs=0.9)
        child.stdin.close()
    assert child.returncode == 0
