"""Stamps of all boots get their true times back, as far as anything is known about them."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.anchor import EARLIEST_US, LONGEST_EXCHANGE_US, UNKNOWN_US, Anchor, Moment, Showing
from agent.boot_book import BootBook
from agent.boots import KEEPS_TIME_US, SAID_ERROR_US, Boot, Boots
from agent.clock import NTP_ERROR_US, Clock
from agent.event import BootRow, Stamp
from tests.fake_clock import FakeClock

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
TRUE = 1_800_000_000 * SECOND
POWER_ON = 1000 * SECOND  # what a wall clock without a battery shows then


class Shelf:
    """Where rows are kept. It can be full."""

    def __init__(self):
        self.rows = {}
        self.writes = 0
        self.full = False

    def load(self):
        return [(row.boot_id, row.number, row.state) for row in self.rows.values()]

    def store(self, rows):
        if self.full:
            raise OSError("the shelf is full")
        self.writes += 1
        self.rows |= {row.boot_id: row for row in rows}


class Machine:
    """A machine that is switched on and off; its crystal is a little off, and so is its wall clock."""

    def __init__(self, *, drift=0.0):
        self.shelf = Shelf()
        self.true = TRUE
        self.drift = drift
        self.boots = 0
        self.told = []  # (true time, stamp) of this and all earlier boots
        self.on()

    def on(self, *, wall=POWER_ON):
        self.boots += 1
        self.began = self.true
        self.behind = self.true - wall
        self.ntp = False
        self.start()

    def start(self):
        """A process starts."""
        self.clock = Clock(
            wall=lambda: self.true - self.behind,
            boot=lambda: self.boot,
            boot_id=f"boot {self.boots}",
            synchronised=lambda: self.ntp,
        )
        self.book = BootBook(clock=self.clock, load=self.shelf.load, store=self.shelf.store)
        self.book.begin(self.told[-1][1] if self.told else None)

    def off(self, us):
        """Power is cut; nothing more is written."""
        self.true += us

    @property
    def boot(self):
        return round((self.true - self.began) * (1 + self.drift))

    def wait(self, us):
        self.true += us

    def stamp(self):
        stamp = self.clock.stamp()
        self.told.append((self.true, stamp))
        return stamp

    def set_by_ntp(self):
        self.behind, self.ntp = 0, True
        self.book.observe()

    def answer(self, took=SECOND, made=None):
        """An exchange whose Date is made so long after the request left: at its end."""
        sent = self.boot
        made = took if made is None else made
        self.wait(made)
        middle = self.true // SECOND * SECOND + SECOND // 2
        self.wait(took - made)
        self.clock.confirm(
            server_us=middle, error_us=SECOND // 2, sent_boot_us=sent, received_boot_us=self.boot
        )
        self.book.observe()


def off_by(machine, true, stamp):
    return abs(machine.book.when(stamp).us - true)


# One boot


def test_stamps_before_the_jump_are_true_to_50_ms_once_ntp_has_set_the_clock():
    machine = Machine()
    machine.wait(HOUR)
    early = machine.stamp()
    assert machine.book.when(early).error_us >= UNKNOWN_US
    machine.wait(HOUR)
    machine.set_by_ntp()
    assert off_by(machine, TRUE + HOUR, early) <= NTP_ERROR_US
    assert machine.book.when(early).error_us == NTP_ERROR_US + HOUR // 10_000


def test_stamps_before_the_first_answer_are_true_to_2_s_once_its_date_is_known():
    machine = Machine()
    machine.wait(HOUR)
    machine.stamp()
    machine.wait(HOUR)
    machine.answer(took=3 * SECOND)
    machine.stamp()
    for true, stamp in machine.told:
        assert off_by(machine, true, stamp) <= machine.book.when(stamp).error_us <= 2.5 * SECOND
    assert machine.book.when(machine.told[1][1]).error_us <= 2 * SECOND


def test_a_trusted_stamp_is_what_it_says():
    machine = Machine()
    machine.set_by_ntp()
    stamp = machine.stamp()
    assert machine.book.when(stamp) == Moment(stamp.wall_us, NTP_ERROR_US)


def test_what_a_date_said_is_corrected_when_ntp_knows_better():
    """A server that made its Date at once, an answer that was long under way: it is behind."""
    machine = Machine()
    machine.answer(took=3 * SECOND, made=0)
    dated = machine.stamp()
    true = machine.true
    assert dated.wall_us < true
    machine.wait(MINUTE)
    machine.set_by_ntp()
    assert off_by(machine, true, dated) == 0


@pytest.mark.parametrize("took", [2 * SECOND, 3 * SECOND])
def test_what_may_have_left_by_a_date_is_not_overtaken_when_ntp_knows_better(took):
    """The Date was ahead: what happened a moment later must not come before what has left."""
    machine = Machine()
    early, late = machine.stamp(), machine.stamp()
    machine.answer(took=took)
    left = machine.book.when(early)
    assert left.us > machine.true - took
    machine.wait(SECOND // 10)
    machine.set_by_ntp()
    assert machine.book.when(late).us > left.us
    assert off_by(machine, TRUE, late) <= machine.book.when(late).error_us <= 2.2 * SECOND


def test_a_date_by_which_nothing_has_left_is_corrected_either_way():
    """It was worse than 2 s: before anything leaves, a second one is asked for."""
    machine = Machine()
    early = machine.stamp()
    machine.answer(took=6 * SECOND)
    assert off_by(machine, TRUE, early) > 2 * SECOND
    machine.answer(took=SECOND)
    assert off_by(machine, TRUE, early) <= machine.book.when(early).error_us <= 2 * SECOND


def test_what_was_said_long_before_ntp_came_stays_said():
    """The crystal's drift since then is worse than the Date was."""
    machine = Machine(drift=5e-5)
    machine.answer(took=0)
    dated = machine.stamp()
    true = machine.true
    machine.wait(30 * DAY)
    machine.set_by_ntp()
    assert machine.book.when(dated).us == dated.wall_us
    assert off_by(machine, true, dated) <= machine.book.when(dated).error_us <= SECOND


def test_trust_that_proved_wrong_is_corrected_from_the_beginning():
    """A first server was an hour ahead."""
    machine = Machine()
    machine.wait(MINUTE)
    at = machine.boot
    machine.clock.confirm(
        server_us=machine.true + HOUR, error_us=SECOND, sent_boot_us=at, received_boot_us=at
    )
    machine.book.observe()
    machine.stamp()
    machine.wait(MINUTE)
    machine.answer(took=0)
    true, stamp = machine.told[0]
    assert stamp.wall_us > machine.true + 50 * MINUTE
    assert off_by(machine, true, stamp) <= SECOND


# A restart of the process within the boot


def test_a_restarted_process_is_trusted_at_once_though_the_kernel_s_flag_has_fallen():
    machine = Machine()
    early = machine.stamp()
    machine.wait(HOUR)
    machine.set_by_ntp()
    machine.ntp = False
    machine.wait(HOUR)
    machine.start()
    assert machine.clock.trust == "ntp"
    assert machine.stamp().wall_us == machine.true
    assert off_by(machine, TRUE, early) <= NTP_ERROR_US
    assert [row.number for row in machine.shelf.rows.values()] == [1]


def test_a_restarted_process_places_times_noted_before_the_jump():
    machine = Machine()
    machine.wait(HOUR)
    written = machine.true - machine.behind
    machine.wait(HOUR)
    machine.set_by_ntp()
    machine.start()
    assert machine.clock.stamp_of(written).boot_us == HOUR


# Boots without trust


def test_a_boot_without_trust_lies_between_its_neighbours():
    """Here the wall clock's word is impossible (1970): the middle."""
    machine = Machine()
    machine.set_by_ntp()
    machine.wait(HOUR)
    machine.book.note_alive()
    machine.off(10 * MINUTE)
    machine.on()
    machine.wait(MINUTE)
    machine.stamp()
    machine.wait(MINUTE)
    machine.book.note_alive()
    machine.off(20 * MINUTE)
    machine.on()
    machine.set_by_ntp()
    true, stamp = machine.told[0]
    found = machine.book.when(stamp)
    assert found.error_us == pytest.approx(15 * MINUTE, abs=SECOND)
    assert found.us == pytest.approx(true + 5 * MINUTE, abs=SECOND)


def test_where_the_wall_clock_s_word_is_possible_it_is_taken():
    machine = Machine()
    machine.set_by_ntp()
    machine.wait(HOUR)
    machine.book.note_alive()
    machine.off(10 * MINUTE)
    machine.on(wall=machine.true - 9 * MINUTE)
    machine.wait(MINUTE)
    machine.stamp()
    machine.book.note_alive()
    machine.off(20 * MINUTE)
    machine.on()
    machine.set_by_ntp()
    (_, stamp) = machine.told[0]
    found = machine.book.when(stamp)
    assert found.us == stamp.wall_us
    assert found.error_us == pytest.approx(29 * MINUTE, abs=SECOND)


def test_boots_without_trust_push_each_other_by_what_they_lasted():
    machine = Machine()
    machine.set_by_ntp()
    machine.book.note_alive()
    for _ in range(3):
        machine.off(SECOND)
        machine.on()
        machine.stamp()
        machine.wait(HOUR)
        machine.book.note_alive()
    machine.off(SECOND)
    machine.on()
    machine.set_by_ntp()
    for true, stamp in machine.told:
        found = machine.book.when(stamp)
        assert abs(found.us - true) <= found.error_us <= 4 * SECOND


def test_without_a_trusted_boot_before_it_a_time_is_only_known_to_be_after_2024():
    machine = Machine()
    machine.stamp()
    machine.off(SECOND)
    machine.on()
    machine.set_by_ntp()
    found = machine.book.when(machine.told[0][1])
    assert EARLIEST_US < found.us < machine.true
    assert found.error_us >= (TRUE - EARLIEST_US) // 2


def test_without_a_trusted_clock_now_nothing_is_known_of_the_end():
    machine = Machine()
    machine.set_by_ntp()
    machine.wait(HOUR)
    machine.book.note_alive()
    machine.off(SECOND)
    machine.on()
    found = machine.book.when(machine.stamp())
    assert found.us >= TRUE + HOUR
    assert found.error_us >= UNKNOWN_US


def test_the_newest_event_tells_how_long_the_last_boot_lasted_at_least():
    """It crashed long after anybody had noted that it was alive."""
    machine = Machine()
    machine.set_by_ntp()
    machine.wait(30 * MINUTE)
    machine.stamp()
    machine.off(SECOND)
    machine.on()
    assert machine.book.boots.boot("boot 1").alive_us == 30 * MINUTE
    assert machine.shelf.rows["boot 1"].state == machine.book.boots.boot("boot 1").row.state


# Stamps without a boot


def file_time(wall_us):
    return Stamp(wall_us, 0, "", trusted=False)


def test_a_time_that_one_boot_s_wall_clock_showed_is_of_that_boot():
    machine = Machine()
    machine.wait(HOUR)
    written, true = machine.true - machine.behind, machine.true
    machine.wait(HOUR)
    machine.set_by_ntp()
    machine.book.note_alive()
    machine.off(DAY)
    machine.on(wall=machine.true)
    machine.set_by_ntp()
    found = machine.book.when(file_time(written))
    assert abs(found.us - true) <= found.error_us <= SECOND


def test_a_clock_that_was_right_when_the_machine_started_is_believed_to_a_minute():
    """It has a battery: what it said in boots that nobody saw was right too."""
    machine = Machine()
    machine.off(DAY)
    written = machine.true
    machine.off(DAY)
    machine.on(wall=machine.true - SECOND)
    machine.set_by_ntp()
    assert machine.book.when(file_time(written)) == Moment(written, KEEPS_TIME_US)


def test_a_clock_that_was_wrong_at_the_start_may_have_been_so_before():
    """The file's time is taken to lie between the boots around it."""
    machine = Machine()
    machine.set_by_ntp()
    machine.wait(HOUR)
    machine.book.note_alive()
    machine.off(HOUR)
    written = machine.true
    machine.off(3 * HOUR)
    machine.on()
    machine.set_by_ntp()
    found = machine.book.when(file_time(written))
    assert found.us == written
    assert found.error_us == pytest.approx(3 * HOUR, abs=SECOND)


@pytest.mark.parametrize("wall", [5, TRUE + DAY])
def test_a_time_that_cannot_be_is_unknown(wall):
    machine = Machine()
    machine.wait(HOUR)
    machine.set_by_ntp()
    machine.on()
    machine.on()
    machine.set_by_ntp()
    found = machine.book.when(file_time(wall))
    assert found.us <= machine.true
    assert found.error_us == UNKNOWN_US


def test_stamps_of_boots_that_nobody_remembers_are_what_they_say_if_they_were_trusted():
    machine = Machine()
    machine.wait(2 * DAY)
    machine.set_by_ntp()
    said = Stamp(TRUE + DAY, 5, "forgotten", trusted=True)
    assert machine.book.when(said) == Moment(TRUE + DAY, SAID_ERROR_US)
    unsure = machine.book.when(replace(said, trusted=False))
    assert unsure.error_us > 12 * HOUR


# The rows


def test_only_what_is_worth_it_is_written():
    """A card wears out: hours of stamps and of answers cost no write of their own."""
    machine = Machine()
    for _ in range(100):
        machine.stamp()
        machine.wait(SECOND)
        machine.book.observe()
    assert machine.shelf.writes == 1
    machine.answer()
    assert machine.shelf.writes == 2
    for _ in range(100):
        machine.answer(took=SECOND)
    assert machine.shelf.writes <= 4
    before = machine.shelf.writes
    machine.set_by_ntp()
    assert machine.shelf.writes == before + 1
    for _ in range(100):
        machine.wait(MINUTE)
        machine.book.observe()
    assert machine.shelf.writes == before + 1


def test_what_could_not_be_stored_is_stored_with_the_next_call():
    machine = Machine()
    machine.shelf.full = True
    with pytest.raises(OSError, match="full"):
        machine.set_by_ntp()
    assert off_by(machine, machine.true, machine.stamp()) <= NTP_ERROR_US
    machine.shelf.full = False
    machine.book.observe()
    assert Boots.of(machine.shelf.rows.values()).boot("boot 1").latest.source == "ntp"


def test_only_the_newest_boots_are_remembered():
    machine = Machine()
    for _ in range(5):
        machine.on()
    book = BootBook(clock=machine.clock, load=machine.shelf.load, store=machine.shelf.store, kept=3)
    assert [boot.number for boot in book.boots.known] == [4, 5, 6]


@pytest.mark.parametrize(
    "state", ["", "null", "{}", "[1]", '{"alive_us": "x"}', '{"alive_us":1,"showings":5}']
)
def test_a_damaged_row_only_keeps_its_place(state):
    assert Boot.of(BootRow("b", 7, state)) == Boot(boot_id="b", number=7)


def test_a_row_is_read_as_it_was_written():
    machine = Machine()
    machine.wait(HOUR)
    machine.answer()
    machine.wait(HOUR)
    machine.set_by_ntp()
    boot = machine.book.boots.boot("boot 1")
    assert Boot.of(boot.row) == boot
    assert len(boot.showings) == 2
    assert json.loads(boot.row.state)["latest"]["source"] == "ntp"


# Histories


@dataclass
class Told:
    true: int
    stamp: Stamp
    trusted_by: str = field(default="")


WALLS = st.one_of(st.just(("1970", 0)), st.tuples(st.just("off"), st.integers(-2 * HOUR, 2 * HOUR)))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 3 * HOUR)),
        st.tuples(st.just("date"), st.integers(0, LONGEST_EXCHANGE_US)),
        st.tuples(st.just("alive"), st.just(0)),
        st.tuples(st.sampled_from(["stamp", "ntp", "lost", "restart"]), st.just(0)),
        st.tuples(st.just("set"), st.integers(-DAY, DAY)),
    ),
    max_size=12,
)
HISTORIES = st.lists(st.tuples(WALLS, STEPS, st.integers(0, DAY)), min_size=1, max_size=6)


def lived(history, drift):
    machine = Machine(drift=drift)
    for wall, steps, dark in history:
        kind, off = wall
        machine.on(wall=POWER_ON if kind == "1970" else machine.true + off)
        for step, us in steps:
            take(machine, step, us)
            machine.stamp()
            machine.wait(SECOND)
        machine.off(dark + SECOND)
    machine.on()
    return machine


def take(machine, step, us):
    if step == "wait":
        machine.wait(us)
    elif step == "date":
        machine.answer(took=us)
    elif step == "alive":
        machine.book.note_alive()
    elif step == "ntp":
        machine.set_by_ntp()
    elif step == "lost":
        machine.ntp = False
    elif step == "restart":
        machine.start()
    elif step == "set" and not machine.ntp:
        machine.behind += us
        machine.book.observe()


@given(history=HISTORIES, drift=st.floats(-5e-5, 5e-5), trusted=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_truth_is_within_the_error_in_every_history(history, drift, trusted):
    machine = lived(history, drift)
    if trusted:
        machine.set_by_ntp()
    for true, stamp in machine.told:
        found = machine.book.when(stamp)
        assert abs(found.us - true) <= found.error_us
        assert not trusted or found.us <= machine.true


@given(history=HISTORIES, drift=st.floats(-5e-5, 5e-5))
@example(history=[(("1970", 0), [("date", 2_000_001), ("date", 0)], 0)], drift=0)
@example(
    history=[(("1970", 0), [("date", 4_000_001), ("date", 0), ("wait", 1), ("restart", 0)], 0)],
    drift=0,
)
@settings(max_examples=200, deadline=None)
def test_within_a_boot_the_order_of_events_is_the_order_of_their_times(history, drift):
    machine = lived(history, drift)
    machine.set_by_ntp()
    for (_, before), (_, after) in pairwise(machine.told):
        if before.boot_id == after.boot_id:
            assert machine.book.when(before).us <= machine.book.when(after).us


LEARNING = st.lists(
    st.one_of(
        st.tuples(st.just("date"), st.integers(0, 2 * SECOND)),
        st.tuples(st.sampled_from(["ntp", "lost", "alive"]), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, HOUR)),
    ),
    max_size=12,
)


@given(steps=LEARNING, drift=st.floats(-5e-5, 5e-5))
@example(
    steps=[("wait", 1_552_020_490), ("date", 951_020), ("date", 0), ("date", 18_490), ("ntp", 0)],
    drift=0.0,
)
@settings(max_examples=200, deadline=None)
def test_what_is_left_never_comes_before_what_has_left(steps, drift):
    """Whatever is learnt in between: one stamp of two leaves at once, the later one after all."""
    machine, left = Machine(drift=drift), []
    for step, us in steps:
        machine.stamp()
        machine.wait(SECOND // 1000)
        take(machine, step, us)
        machine.wait(SECOND // 1000)
        machine.stamp()
        machine.wait(SECOND // 1000)
        if machine.clock.trusted:
            found = [machine.book.when(stamp).us for _, stamp in machine.told]
            left = [max(then, now) for then, now in zip_longest(left, found, fillvalue=0)]
    for (_, stamp), us in zip(machine.told[1:], left, strict=False):
        assert machine.book.when(stamp).us >= us


@given(
    anchors=st.lists(
        st.builds(
            Anchor,
            offset_us=st.integers(TRUE, TRUE + DAY),
            error_us=st.integers(0, HOUR),
            source=st.sampled_from(["ntp", "date"]),
            from_us=st.integers(0, DAY),
            to_us=st.integers(0, DAY),
        ),
        min_size=1,
    ),
    stamps=st.lists(st.integers(0, DAY), min_size=2),
)
def test_untrusted_stamps_of_a_boot_keep_their_distances_whatever_vouched_for_it(anchors, stamps):
    boot = Boot(boot_id="b", number=1, showings=(Showing(0, 0, 0),))
    for anchor in anchors:
        boot = boot.anchored(anchor)
    now = Moment(TRUE + 5 * DAY, 0)
    found = [Boots((boot,)).when(Stamp(0, at, "b", trusted=False), now=now).us for at in stamps]
    assert [us - found[0] for us in found] == [at - stamps[0] for at in stamps]


# The real thing

CHILD = """
import json, sys
from pathlib import Path
from agent.boot_book import BootBook
from agent.clock import Clock
from agent.event import Stamp
path = Path(sys.argv[1])
rows = json.loads(path.read_text()) if path.exists() else {}
def store(new):
    rows.update({row.boot_id: [row.boot_id, row.number, row.state] for row in new})
    path.write_text(json.dumps(rows))
clock = Clock()
book = BootBook(clock=clock, load=lambda: [tuple(row) for row in rows.values()], store=store)
stamps = [Stamp(*each) for each in json.loads(sys.argv[2])]
book.begin(stamps[-1] if stamps else None)
own = clock.stamp()
found = [book.when(stamp) for stamp in (*stamps, own)]
print(json.dumps([[own.wall_us, own.boot_us, own.boot_id, own.trusted],
                  [[moment.us / 1e6, moment.error_us / 1e6] for moment in found]]))
"""


def test_real_processes_in_1970_across_restart_and_reboot(tmp_path):
    """Two processes before the jump, one after it, one in the next boot: all times are true."""
    machine, stamps, trues = FakeClock(tmp_path), [], []

    def process():
        trues.append(time.time())
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path / "rows", json.dumps(stamps)],
            env=machine.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        own, found = json.loads(done.stdout)
        stamps.append(own)
        return own, found

    machine.reboot(wall=1000)
    process()
    own, _ = process()
    assert own[0] < 1100 * SECOND
    assert not own[3]
    machine.set_offset(0)
    machine.synchronise()
    _, found = process()
    assert [us for us, _ in found] == pytest.approx(trues, abs=0.9)
    machine.reboot(wall=1000)
    _, found = process()
    assert [us for us, _ in found][:3] == pytest.approx(trues[:3], abs=0.9)
    machine.set_offset(0)
    machine.synchronise()
    _, found = process()
    assert [us for us, _ in found] == pytest.approx(trues, abs=0.9)
    assert max(error for _, error in found) < 0.1
