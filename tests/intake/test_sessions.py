"""The rules of sittings, one by one; test_sessions_any.py tries all of them together."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.event import Stamp
from agent.intake.sessions import Sessions
from agent.intake.sitting import PROMISES

MS = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
TRUE = 1_790_000_000  # the true time at the boot's start, in seconds
US = "77.1789"
BOOT = "boot-b"


def at(offset_us, *, boot=BOOT, wall_us=None, trusted=True):
    """A stamp so long after the start of the boot."""
    wall_us = TRUE * SECOND + offset_us if wall_us is None else wall_us
    return Stamp(wall_us, offset_us, boot, trusted)


def blind(offset_us, boot=BOOT):
    """Likewise, by a clock that begins in 1970 at each boot."""
    return at(offset_us, boot=boot, wall_us=offset_us, trusted=False)


class Disk(dict):
    """What was committed; as the queue does, it keeps the larger of two texts."""

    def commit(self, *states):
        for state in states:
            if state is not None and state.state > self.get(state.client, ""):
                self[state.client] = state.state


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def made():
    """Makes Sessions; the same disk for all."""

    def make(disk, **changed):
        numbers = iter(range(1, 10_000))
        settings = dict(
            load=disk.get, boot_id=BOOT, timeout_s=1800.0, longest_s=86_400.0, per_sitting=False,
            new_client_id=lambda stamp: f"{next(numbers)}.{stamp.wall_us // SECOND}",
        )  # fmt: skip
        return Sessions(**(settings | changed))

    return make


@pytest.fixture
def sessions(disk, made):
    return made(disk)


@pytest.fixture
def place(sessions):
    return lambda stamp, **said: put(sessions, stamp, **said)


def put(sessions, stamp, *, client=US, human=True, mark=None, own=True):
    return sessions.place(client, stamp=stamp, human=human, mark=mark, own=own)


def truth(offset=TRUE * SECOND):
    return lambda stamp: offset + stamp.boot_us


def test_a_session_id_is_the_second_in_which_the_sitting_began(place):
    first = place(at(5 * SECOND + 999 * MS))
    assert (first.session_id, first.engagement_ms, first.start) == (TRUE + 5, 1, None)
    assert first.client_id == US


@pytest.mark.parametrize(("gap", "same"), [(30 * MINUTE, True), (30 * MINUTE + 1, False)])
def test_a_sitting_ends_a_microsecond_after_its_timeout(place, gap, same):
    first = place(at(0))
    second = place(at(gap))
    assert (first.session_id == second.session_id) is same
    assert second.engagement_ms == (30 * 60_000 - 1 if same else 1)


def test_the_timeout_runs_from_the_last_human_event_not_from_the_start(place):
    ids = {place(at(minutes * MINUTE)).session_id for minutes in range(0, 300, 20)}
    assert ids == {TRUE}


@pytest.mark.parametrize(("late", "same"), [(0, True), (1, False)])
def test_no_sitting_is_longer_than_a_day(place, late, same):
    first = place(at(0))
    for minutes in range(20, 1440, 20):
        assert place(at(minutes * MINUTE)).session_id == first.session_id
    assert (place(at(24 * HOUR + late)).session_id == first.session_id) is same


def test_a_marked_start_begins_a_sitting_and_belongs_to_it(place):
    place(at(0))
    again = place(at(10 * SECOND), mark="start")
    assert (again.session_id, again.engagement_ms) == (TRUE + 10, 1)
    assert place(at(11 * SECOND)).session_id == TRUE + 10


def test_a_marked_end_belongs_to_the_sitting_that_it_ends(place):
    first = place(at(0))
    last = place(at(10 * SECOND), mark="end")
    assert (last.session_id, last.engagement_ms) == (first.session_id, 9_999)
    assert place(at(11 * SECOND)).session_id == TRUE + 11


def test_sittings_within_one_second_have_ids_of_their_own(place):
    ids = [place(at(n), mark="start").session_id for n in range(3)]
    assert ids == [TRUE, TRUE + 1, TRUE + 2]


def test_events_of_one_body_have_one_stamp_and_may_still_be_two_sittings(place):
    now = blind(5 * SECOND)
    starts = [place(now, mark=mark).start for mark in ("start", "end", None, None, "start", None)]
    assert starts[0] == starts[1]
    assert starts[2] == starts[3]
    assert starts[4] == starts[5]
    assert len(set(starts)) == 3


def test_a_machine_event_neither_opens_nor_prolongs_a_sitting(place):
    alone = place(at(0), human=False)
    assert (alone.session_id, alone.start, alone.state) == (None, None, None)
    first = place(at(MINUTE))
    among = place(at(21 * MINUTE), human=False)
    assert (among.session_id, among.engagement_ms) == (first.session_id, None)
    assert among.state is None, "nothing to commit"
    assert place(at(31 * MINUTE), human=False).session_id == first.session_id
    assert place(at(31 * MINUTE + 1), human=False).session_id is None
    assert place(at(31 * MINUTE + 2)).session_id != first.session_id


def test_a_machine_event_does_not_shorten_the_engagement_of_the_next_human_one(place):
    place(at(0))
    place(at(5 * SECOND), human=False)
    assert place(at(10 * SECOND)).engagement_ms == 9_999


def test_a_machine_may_say_that_somebody_came_or_went(place):
    came = place(at(0), human=False, mark="start")
    assert (came.session_id, came.engagement_ms) == (TRUE, None)
    first = place(at(7 * SECOND))
    assert (first.session_id, first.engagement_ms) == (TRUE, 1)
    assert place(at(8 * SECOND), human=False, mark="end").session_id == TRUE
    assert place(at(9 * SECOND), human=False).session_id is None
    assert place(at(9 * SECOND)).session_id == TRUE + 9


@pytest.mark.parametrize("wall_us", [0, (TRUE + 10**8) * SECOND])
def test_a_jumping_wall_clock_neither_splits_nor_joins_sittings(place, wall_us):
    first = place(blind(0))
    assert place(at(10 * MINUTE, wall_us=wall_us, trusted=False)).start == first.start
    assert place(at(20 * MINUTE)).start == first.start, "trusted from now on"
    assert place(at(50 * MINUTE + 1)).session_id == TRUE + 3000


def test_ids_grow_when_the_clock_goes_back(disk, made):
    ahead = put(made(disk), at(0, wall_us=(TRUE + 10**6) * SECOND))
    disk.commit(ahead.state)
    behind = put(made(disk, boot_id="boot-c"), at(0, boot="boot-c"))
    assert behind.session_id == ahead.session_id + 1


def test_a_restart_goes_on_with_the_sitting(disk, made):
    first = put(made(disk), at(0))
    disk.commit(first.state)
    second = put(made(disk), at(MINUTE))
    assert (second.session_id, second.engagement_ms) == (first.session_id, 59_999)
    assert second.state.state > first.state.state


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (at(0), at(0, boot="boot-c", wall_us=(TRUE + 1800) * SECOND), True),
        (at(0), at(0, boot="boot-c", wall_us=(TRUE + 1801) * SECOND), False),
        (blind(0), at(0, boot="boot-c", wall_us=SECOND), False),
        (at(0), blind(0, boot="boot-c"), False),
        (at(0), at(0, boot="boot-c", wall_us=(TRUE - 60) * SECOND), False),
    ],
    ids=["quick", "slow", "blind before", "blind after", "clocks disagree"],
)
def test_only_two_trusted_clocks_can_show_that_a_reboot_was_quick(disk, made, before, after, same):
    first = put(made(disk), before)
    disk.commit(first.state)
    second = put(made(disk, boot_id="boot-c"), after)
    told = (second.session_id, second.start) == (first.session_id, first.start)
    assert told is same


def test_a_sitting_across_a_reboot_is_no_longer_than_the_times_say(disk, made):
    disk.commit(put(made(disk), at(0)).state)
    sessions = made(disk, boot_id="boot-c")
    second = put(sessions, at(7, boot="boot-c", wall_us=(TRUE + 60) * SECOND))
    third = put(sessions, at(7 + SECOND, boot="boot-c", wall_us=(TRUE + 61) * SECOND))
    assert (second.engagement_ms, third.engagement_ms) == (59_999, 1_000)


def test_a_sitting_that_began_by_a_wrong_clock_gets_its_id_later(sessions, place):
    first = place(blind(5 * SECOND))
    assert (first.session_id, first.start) == (None, blind(5 * SECOND))
    assert place(blind(6 * SECOND)).start == first.start
    session_id, state = sessions.resolve(US, first.start, truth())
    assert session_id == TRUE + 5
    assert state is not None
    assert place(at(7 * SECOND)).session_id == session_id
    assert sessions.resolve(US, first.start, truth(0)) == (session_id, None), "once and for all"


def test_the_id_that_was_told_later_survives_a_restart(disk, made):
    sessions = made(disk)
    first = put(sessions, blind(0))
    session_id, state = sessions.resolve(US, first.start, truth())
    disk.commit(state, first.state)  # in the wrong order, as parallel commits may
    assert made(disk).resolve(US, first.start, truth(0)) == (session_id, None)


def test_a_known_id_leaves_room_for_those_told_later(sessions, place):
    place(at(0))
    starts = [place(blind(n), mark="start").start for n in (1, 2, 3)]
    known = place(at(4), mark="start").session_id
    assert known == TRUE + 4
    told = [sessions.resolve(US, start, truth())[0] for start in reversed(starts)]
    assert told == [TRUE + 3, TRUE + 2, TRUE + 1]


def test_ids_told_later_keep_the_order_whatever_the_times_say(sessions, place):
    starts = [place(blind(n * HOUR), mark="start").start for n in range(3)]
    middle = sessions.resolve(US, starts[1], truth())[0]
    last = sessions.resolve(US, starts[2], lambda _: 0)[0]
    first = sessions.resolve(US, starts[0], truth(10**6 * TRUE * SECOND))[0]
    assert (first, middle, last) == (TRUE + 3599, TRUE + 3600, TRUE + 3601)
    assert place(at(3 * HOUR), mark="start").session_id == TRUE + 3 * 3600


def test_beyond_the_promises_kept_an_id_is_the_second_of_the_start(sessions, place):
    starts = [place(blind(n * MINUTE), mark="start").start for n in range(PROMISES + 5)]
    ids = [sessions.resolve(US, start, truth())[0] for start in reversed(starts)]
    assert ids == [TRUE + 60 * n for n in reversed(range(PROMISES + 5))]


def test_what_is_beyond_the_promises_kept_is_below_all_that_are(sessions, place):
    starts = [place(blind(n * MINUTE), mark="start").start for n in range(PROMISES + 5)]
    oldest = sessions.resolve(US, starts[5], truth())[0]
    assert sessions.resolve(US, starts[4], truth(10**6 * TRUE * SECOND))[0] < oldest


def test_a_sitting_beyond_the_promises_kept_has_one_id_however_the_clock_is_corrected(disk, made):
    """A Date is half a second off; a moment later NTP knows better."""
    sessions = made(disk)
    starts = [put(sessions, blind(n * MINUTE), mark="start").start for n in range(PROMISES + 10)]
    for start in starts:
        session_id, state = sessions.resolve(US, start, truth(TRUE * SECOND + 900 * MS))
        disk.commit(state)
        again = made(disk)
        for later in (1400 * MS, -100 * MS, HOUR):
            assert again.resolve(US, start, truth(TRUE * SECOND + later)) == (session_id, None)


def test_the_clock_s_first_word_counts_for_all_forgotten_sittings_of_a_boot(disk, made):
    """Those told later keep their distance: they cannot get the id of another one."""
    sessions = made(disk)
    starts = [put(sessions, blind(n * SECOND), mark="start").start for n in range(PROMISES + 10)]
    ids = [
        sessions.resolve(US, start, truth(TRUE * SECOND - n * SECOND))[0]
        for n, start in enumerate(starts[:10])
    ]
    assert ids == list(range(TRUE, TRUE + 10))


@pytest.mark.parametrize("same_second", [True, False])
def test_a_promise_that_was_kept_holds_when_it_is_forgotten(disk, made, same_second):
    """Also where its id was pushed ahead, as in a second with two sittings."""
    sessions = made(disk)
    step = MS if same_second else MINUTE
    starts = [put(sessions, blind(n * step), mark="start").start for n in range(10)]
    ids = [sessions.resolve(US, start, truth())[0] for start in starts]
    for n in range(PROMISES + 10):
        disk.commit(put(sessions, blind(HOUR + n * MINUTE), mark="start").state)
    again = made(disk)
    assert [again.resolve(US, start, truth(0))[0] for start in starts] == ids


def test_what_is_remembered_of_forgotten_promises_is_bounded(disk, made):
    for boot in range(40):
        sessions = made(disk, boot_id=f"0123abcd-0123-0123-0123-0123456789{boot:02d}")
        for n in range(10):
            stamp = blind(n, boot=f"0123abcd-0123-0123-0123-0123456789{boot:02d}")
            placed = put(sessions, stamp, mark="start")
            _, state = sessions.resolve(US, placed.start, truth(TRUE * SECOND + boot * HOUR))
            disk.commit(placed.state, state)
    assert len(disk[US]) < 5_000


def test_promises_are_bounded_in_the_stored_text(place):
    for n in range(10 * PROMISES):
        placed = place(blind(n * HOUR), mark="start")
    assert len(placed.state.state) < 3_000


def test_promises_are_forgotten_when_nothing_as_old_can_be_sent_any_more(sessions, place):
    for n in range(PROMISES):
        sessions.resolve(US, place(blind(n), mark="start").start, truth())
    last = place(at(8 * 24 * HOUR))
    assert len(last.state.state) < 500


def test_a_client_of_whom_nothing_is_stored_any_more_gets_the_second_of_the_start(sessions):
    session_id, state = sessions.resolve(US, blind(5 * SECOND), truth())
    assert session_id == TRUE + 5
    assert state is not None
    assert sessions.resolve(US, blind(5 * SECOND), truth(0))[0] == session_id
    assert put(sessions, at(5 * SECOND)).session_id == session_id + 1, "later sittings are greater"


def test_an_event_from_inside_the_sitting_changes_nothing_but_a_millisecond(place):
    first = place(at(0))
    place(at(20 * MINUTE))
    late = place(at(5 * MINUTE))
    assert (late.session_id, late.engagement_ms) == (first.session_id, 1)
    after = place(at(21 * MINUTE))
    assert (after.session_id, after.engagement_ms) == (first.session_id, 59_999)


@pytest.mark.parametrize("mark", ["start", "end"])
def test_a_mark_from_the_past_moves_nothing(place, mark):
    first = place(at(0))
    place(at(20 * MINUTE))
    place(at(5 * MINUTE), mark=mark)
    assert place(at(21 * MINUTE)).session_id == first.session_id


def test_an_event_from_before_the_sitting_belongs_to_the_one_before_if_it_fits(place):
    before = place(at(0))
    now = place(at(3 * HOUR))
    fits = place(at(10 * MINUTE))
    assert (fits.session_id, fits.engagement_ms) == (before.session_id, 10 * 60_000 - 1)
    assert place(at(50 * MINUTE)).session_id is None, "rather none than a wrong one"
    assert place(at(-HOUR)).session_id is None
    assert place(at(3 * HOUR + MINUTE)).session_id == now.session_id


def test_what_comes_from_an_earlier_boot_is_older_whatever_its_clock_said(place):
    now = place(at(0))
    old = place(at(5 * HOUR, boot="boot-a", wall_us=(TRUE + 60) * SECOND))
    assert old.session_id is None
    assert place(at(MINUTE)).session_id == now.session_id


def test_an_event_of_which_nobody_knows_the_boot_has_no_sitting(place):
    lost = place(Stamp(TRUE * SECOND, 0, "", trusted=False))
    assert (lost.session_id, lost.start, lost.state) == (None, None, None)


@pytest.mark.parametrize("mark", [None, "start", "end"])
def test_a_time_that_is_on_no_boot_s_clock_opens_no_sitting(place, mark):
    said = place(Stamp(TRUE * SECOND, 0, "", trusted=True), mark=mark)
    assert (said.session_id, said.start, said.engagement_ms, said.state) == (None,) * 4


def before_this_boot(offset_us):
    """A publisher's own time that this boot's clock has not seen."""
    return Stamp(TRUE * SECOND + offset_us, 0, "", trusted=True)


@pytest.mark.parametrize("mark", [None, "start", "end"])
@pytest.mark.parametrize("offset_us", [-HOUR, -MINUTE, -1])
def test_what_was_before_this_boot_moves_nothing_of_the_present_sitting(place, mark, offset_us):
    first = place(at(MINUTE))
    old = place(before_this_boot(offset_us), mark=mark)
    assert (old.session_id, old.start, old.engagement_ms, old.state) == (None,) * 4
    assert place(at(2 * MINUTE)).session_id == first.session_id


@pytest.mark.parametrize(("offset_us", "same"), [(MINUTE, True), (-30, False), (50 * MINUTE, True),
                                                 (50 * MINUTE + 1, False)])  # fmt: skip
def test_what_was_before_this_boot_belongs_to_the_sitting_of_then(disk, made, offset_us, same):
    """In this boot there was no sitting yet, or there is one."""
    before = made(disk, boot_id="boot-a")
    first = put(before, at(0, boot="boot-a"))
    disk.commit(first.state, put(before, at(20 * MINUTE, boot="boot-a")).state)
    for live in (False, True):
        sessions = made(disk)
        if live:
            put(sessions, at(0, wall_us=(TRUE + 7200) * SECOND))
        old = put(sessions, before_this_boot(offset_us))
        assert (old.session_id == first.session_id) is same
        assert (old.session_id is None) is not same


def test_an_end_opens_no_sitting(disk, made):
    sessions = made(disk, per_sitting=True)
    for human in (True, False):
        lone = put(sessions, at(0), mark="end", human=human)
        assert (lone.session_id, lone.engagement_ms, lone.state) == (None, None, None)
        assert lone.client_id == US, "the device's own, as of all that is in no sitting"


@pytest.mark.parametrize(
    ("gap", "same"), [(MS, True), (30 * MINUTE, True), (30 * MINUTE + 1, False)]
)
@pytest.mark.parametrize("human", [True, False])
def test_a_second_end_is_of_the_sitting_that_ended_within_the_timeout(disk, made, gap, same, human):
    sessions = made(disk, per_sitting=True)
    first = put(sessions, at(0))
    put(sessions, at(MINUTE), mark="end")
    again = put(sessions, at(MINUTE + gap), mark="end", human=human)
    assert (again.session_id, again.client_id) == (
        (first.session_id, first.client_id) if same else (None, US)
    )
    assert again.engagement_ms == (1 if same and human else None)
    assert put(sessions, at(MINUTE + gap + 1)).session_id == TRUE + (MINUTE + gap) // SECOND


@pytest.mark.parametrize(
    ("gap", "same"), [(1, True), (30 * MINUTE, True), (30 * MINUTE + 1, False)]
)
def test_an_end_after_the_idle_timeout_is_of_the_sitting_that_idled(place, gap, same):
    """It ended a timeout after its last event; a page's own timer may be slower than that."""
    first = place(at(0))
    late = place(at(30 * MINUTE + gap), mark="end")
    assert late.session_id == (first.session_id if same else None)
    assert late.engagement_ms == (1 if same else None), "nobody was there all that time"
    assert place(at(61 * MINUTE)).session_id == TRUE + 3660


def test_ends_do_not_prolong_one_another(place):
    place(at(0), mark="start")
    place(at(MINUTE), mark="end")
    assert place(at(20 * MINUTE), mark="end").session_id == TRUE
    assert place(at(40 * MINUTE), mark="end").session_id is None


def test_a_second_end_that_comes_late_is_of_the_sitting_of_then(place):
    place(at(0))
    place(at(MINUTE), mark="end")
    now = place(at(HOUR))
    assert place(at(2 * MINUTE), mark="end").session_id == TRUE
    assert place(at(HOUR + MINUTE)).session_id == now.session_id


def test_who_was_overtaken_by_less_than_a_second_counts_as_of_now(place):
    place(at(10 * SECOND))
    assert place(at(10 * SECOND - MS)).session_id == TRUE + 10, "before its start, by a race"
    again = place(at(9_100 * MS), mark="start")
    assert again.session_id == TRUE + 11
    assert place(at(10_500 * MS)).session_id == again.session_id


def test_who_was_overtaken_by_the_end_still_belongs_to_what_it_ended(place):
    first = place(at(0))
    place(at(10 * SECOND), mark="end")
    assert place(at(10 * SECOND - MS)).session_id == first.session_id
    assert place(at(10 * SECOND + MS)).session_id == TRUE + 10


def test_events_in_one_millisecond_get_one_each_and_later_ones_give_it_back(place):
    shares = [place(at(offset)).engagement_ms for offset in (0, SECOND, SECOND, SECOND)]
    assert shares == [1, 999, 1, 1]
    assert place(at(2 * SECOND)).engagement_ms == 998


def test_each_sitting_of_the_device_can_be_a_visitor_of_its_own(disk, made):
    sessions = made(disk, per_sitting=True)
    first = put(sessions, at(0))
    assert first.client_id == f"1.{TRUE}"
    assert put(sessions, at(MINUTE)).client_id == first.client_id
    assert put(sessions, at(MINUTE), human=False).client_id == first.client_id
    second = put(sessions, at(2 * MINUTE), mark="start")
    assert second.client_id == f"2.{TRUE + 120}"
    disk.commit(first.state, second.state)
    again = made(disk, per_sitting=True)
    assert put(again, at(3 * MINUTE)).client_id == second.client_id, "kept across a restart"
    assert put(again, at(3 * HOUR), human=False).client_id == US, "nobody is there"
    assert second.session_id > first.session_id


def test_other_clients_are_never_renamed(disk, made):
    sessions = made(disk, per_sitting=True)
    assert put(sessions, at(0), client="5.5", own=False).client_id == "5.5"


def test_clients_do_not_know_each_other(place):
    place(at(0))
    assert place(at(MINUTE), client="5.5", own=False).session_id == TRUE + 60
    assert place(at(MINUTE)).session_id == TRUE


def test_only_so_many_clients_are_kept_in_memory(disk, made):
    loads = []

    def load(client):
        loads.append(client)
        return disk.get(client)

    sessions = made(disk, load=load, clients=100)
    first = put(sessions, at(0), client="0.0")
    disk.commit(first.state)
    for n in range(1, 100):
        disk.commit(put(sessions, at(n), client=f"{n}.0").state)
    assert put(sessions, at(100), client="0.0").session_id == first.session_id
    assert loads.count("0.0") == 1
    for n in range(101, 201):
        put(sessions, at(n), client=f"{n}.0")
    assert put(sessions, at(300), client="0.0").session_id == first.session_id
    assert loads.count("0.0") == 2


@pytest.mark.parametrize(
    "text",
    ["", "garbage", "00000000000000000007 [", "00000000000000000007 [1,[],[[1,2]],[]]",
     '00000000000000000007 [1,[],[["a",[1,2,3,true],[1,2,0,true],0,0,null,false]],[]]',
     "00000000000000000007 [[],[],[],[[0,1,2,3,4]]]", "00000000000000000007 null",
     "00000000000000000007 [1,[],[],[],[[0,1]],[]]", "00000000000000000007 [1,[],[],[],[]]"],
)  # fmt: skip
def test_a_damaged_text_is_as_good_as_none_and_is_replaced(made, text):
    disk = Disk({US: text} if text else {})
    placed = put(made(disk), at(0))
    assert placed.session_id == TRUE
    if text.startswith("0"):
        assert placed.state.state > text


def test_a_commit_that_failed_costs_nobody_a_session(disk, made):
    """The events are gone; what comes after them is whole, before and after a restart."""
    disk.commit(put(made(disk), at(0)).state)
    sessions = made(disk)
    put(sessions, at(HOUR))  # not committed
    after = put(sessions, at(HOUR + MINUTE))
    disk.commit(after.state)
    again = put(made(disk), at(HOUR + 2 * MINUTE))
    assert again.session_id == after.session_id == TRUE + 3600


def test_threads_get_one_number_each(sessions, disk):
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda n: put(sessions, at(n)).state, range(400)))
    numbers = sorted(int(state.state.split(" ")[0]) for state in states)
    assert numbers == list(range(1, 401))
    disk.commit(*states)
    assert disk[US] == max(state.state for state in states)
