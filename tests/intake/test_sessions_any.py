"""Any sequence of events, restarts, reboots and clocks, against a model that knows the true time."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from agent.event import Stamp
from agent.intake.sessions import Sessions

SECOND = 1_000_000
BEGIN = 1_790_000_000 * SECOND
TIMEOUT = 120 * SECOND
LONGEST = 200 * SECOND
CLIENTS = ("1.1", "2.2", "3.3")
OWN = CLIENTS[0]
GAPS = st.one_of(
    st.sampled_from([1, 400, 1000, TIMEOUT - 1, TIMEOUT, TIMEOUT + 1, LONGEST]),
    st.integers(1, 3 * SECOND),
    st.integers(1, 2 * TIMEOUT),
)


@dataclass
class Expected:
    """A sitting as it truly was; ``ids`` and ``starts`` are what was said of it."""

    begin: int
    last: int
    boot: str
    trusted: bool
    start: Stamp
    visitor: str = ""
    over: bool = False
    given: int = 0
    floors: int = 0
    session_id: int | None = None
    starts: set = field(default_factory=set)


class Sittings(RuleBasedStateMachine):
    @initialize(per_sitting=st.booleans())
    def begin(self, per_sitting):
        self.now = BEGIN
        self.per_sitting = per_sitting
        self.boots = 0
        self.wall = 0  # what the wall clock shows, beside the true time
        self.trusted = False
        self.disk = {}
        self.sittings = {client: [] for client in CLIENTS}
        self.numbers = 0
        self._boot(0)

    def _boot(self, wall):
        self.boots += 1
        self.boot_began, self.trusted, self.wall = self.now, False, wall
        self.forgetful = self._sessions(1)
        self.steady = self._sessions(1000)

    def _sessions(self, clients):
        return Sessions(
            load=self.disk.get, boot_id=f"boot-{self.boots}", timeout_s=TIMEOUT / SECOND,
            longest_s=LONGEST / SECOND, per_sitting=self.per_sitting, clients=clients,
            new_client_id=lambda stamp: f"9{stamp.boot_us}.{self.boots}",
        )  # fmt: skip

    def _stamp(self):
        wall = self.now + (0 if self.trusted else self.wall)
        return Stamp(wall, self.now - self.boot_began, f"boot-{self.boots}", self.trusted)

    def _commit(self, state):
        if state is not None:
            assert state.state > self.disk.get(state.client, "")
            self.disk[state.client] = state.state

    @rule(gap=GAPS)
    def wait(self, gap):
        self.now += gap

    @rule(wall=st.integers(-BEGIN, BEGIN))
    def set_the_clock(self, wall):
        self.wall = wall

    @rule()
    def hear_the_true_time(self):
        self.trusted = True

    @rule(still_trusted=st.booleans())
    def restart(self, still_trusted):
        self.trusted = self.trusted and still_trusted  # the kernel's flag may have fallen back
        self.forgetful, self.steady = self._sessions(1), self._sessions(1000)

    @rule(wall=st.integers(-BEGIN, BEGIN), off=GAPS)
    def reboot(self, wall, off):
        self.now += off
        self._boot(wall)

    @rule(
        client=st.sampled_from(CLIENTS),
        human=st.booleans() | st.just(value=True),
        mark=st.sampled_from([None, None, None, "start", "end"]),
        gap=GAPS,
    )
    def happens(self, client, human, mark, gap):
        self.now += gap
        stamp = self._stamp()
        said = dict(stamp=stamp, human=human, mark=mark, own=client == OWN)
        placed = self.steady.place(client, **said)
        assert self.forgetful.place(client, **said) == placed, "memory makes no difference"
        self._commit(placed.state)
        sitting = self._sitting(client, stamp, human, mark)
        if sitting is None:
            assert (placed.session_id, placed.start, placed.client_id) == (None, None, client)
            return
        self._check(sitting, placed, client)
        if mark == "end" and not self._goes_on(sitting, stamp):
            assert placed.engagement_ms == (1 if human else None)
            sitting.given, sitting.floors = sitting.given + human, sitting.floors + human
            return
        assert placed.engagement_ms == (self._engagement(sitting) if human else None)
        if human:
            sitting.last, sitting.boot, sitting.trusted = self.now, stamp.boot_id, stamp.trusted
        sitting.over = sitting.over or mark == "end"

    def _sitting(self, client, stamp, human, mark):
        known = self.sittings[client]
        if known and mark != "start" and self._goes_on(known[-1], stamp):
            return known[-1]
        if mark == "end":
            return known[-1] if known and self._just_ended(known[-1], stamp) else None
        if not human and mark != "start":
            return None
        new = Expected(self.now, self.now, stamp.boot_id, stamp.trusted, stamp)
        if stamp.trusted:
            new.session_id = max([self.now // SECOND, len(known) + 1, *self._after_known(known)])
        known.append(new)
        return new

    def _after_known(self, known):
        for index, sitting in enumerate(known):
            if sitting.session_id is not None:
                yield sitting.session_id + len(known) - index

    def _just_ended(self, sitting, stamp):
        gap = self.now - sitting.last
        return self._comparable(sitting, stamp) and gap <= TIMEOUT * (1 if sitting.over else 2)

    def _comparable(self, sitting, stamp):
        return sitting.boot == stamp.boot_id or (sitting.trusted and stamp.trusted)

    def _goes_on(self, sitting, stamp):
        comparable = self._comparable(sitting, stamp)
        within = self.now - sitting.last <= TIMEOUT and self.now - sitting.begin <= LONGEST
        return comparable and within and not sitting.over

    def _check(self, sitting, placed, client):
        if sitting.session_id is None:
            assert placed.session_id is None
            assert placed.start == sitting.start
        else:
            assert (placed.session_id, placed.start) == (sitting.session_id, None)
        if not sitting.visitor:
            named = self.per_sitting and client == OWN
            sitting.visitor = f"9{sitting.start.boot_us}.{self.boots}" if named else client
        assert placed.client_id == sitting.visitor

    def _engagement(self, sitting):
        if not sitting.given:
            share = 1
        else:
            length = (self.now - sitting.begin) // 1000
            since = (self.now - sitting.last) // 1000
            share = max(1, min(since, TIMEOUT // 1000, length - sitting.given))
        if not sitting.given or self.now - sitting.last < 1000:
            sitting.floors += 1
        sitting.given += share
        assert sitting.given <= (self.now - sitting.begin) // 1000 + sitting.floors
        return share

    def _waiting(self):
        return [
            (client, index)
            for client, known in self.sittings.items()
            for index, sitting in enumerate(known)
            if sitting.session_id is None
        ]

    @precondition(lambda self: self._waiting())
    @rule(data=st.data(), error=st.just(0) | st.integers(-(10**9), 10**9))
    def delivers(self, data, error):
        client, index = data.draw(st.sampled_from(self._waiting()))
        self._resolve(client, index, error * SECOND)

    def _resolve(self, client, index, error):
        known = self.sittings[client]
        sitting = known[index]
        when = lambda _: sitting.begin + error  # noqa: E731 - one line says it
        session_id, state = self.steady.resolve(client, sitting.start, when)
        assert self.forgetful.resolve(client, sitting.start, when) == (session_id, state)
        assert state is not None
        self._commit(state)
        assert self.steady.resolve(client, sitting.start, lambda _: 0) == (session_id, None)
        sitting.session_id = session_id
        room = [s.session_id is not None for s in known]
        if not error and sum(room) == 1:
            assert session_id == max(sitting.begin // SECOND, index + 1), (
                "nothing stands in its way"
            )

    def teardown(self):
        for client, index in self._waiting() if hasattr(self, "sittings") else ():
            self._resolve(client, index, 0)
        for known in getattr(self, "sittings", {}).values():
            ids = [sitting.session_id for sitting in known]
            assert ids == sorted(set(ids)), "strictly increasing"
            assert all(session_id >= 1 for session_id in ids)


TestSittings = Sittings.TestCase
TestSittings.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)

LATE = st.tuples(st.integers(0, 3000), st.booleans(), st.sampled_from([None, None, "start", "end"]))


def _place(sessions, second, human, mark):
    offset = second * SECOND
    stamp = Stamp(BEGIN + offset, offset, "boot", trusted=True)
    return sessions.place("1.1", stamp=stamp, human=human, mark=mark, own=True)


def _fresh():
    return Sessions(
        load=lambda _: None, boot_id="boot", timeout_s=120.0, longest_s=600.0, per_sitting=False,
        new_client_id=str,
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.integers(1, 300), st.lists(LATE, max_size=3)), max_size=25),
)
def test_events_that_come_late_never_move_what_comes_in_order(gaps):
    """A spool file read beside live events: theirs are the same sittings as without it."""
    alone, disturbed, now = _fresh(), _fresh(), 3000
    given_ms, seconds, lates = Counter(), defaultdict(set), Counter()
    for gap, late in gaps:
        now += gap
        expected, found = (_place(sessions, now, True, None) for sessions in (alone, disturbed))
        assert found.session_id == expected.session_id
        given_ms[found.session_id] += found.engagement_ms
        seconds[found.session_id].add(now)
        for before, human, mark in late:
            placed = _place(disturbed, now - 2 - before, human, mark)
            assert placed.session_id is None or placed.session_id <= found.session_id
            if placed.engagement_ms:
                given_ms[placed.session_id] += placed.engagement_ms
                seconds[placed.session_id].add(now - 2 - before)
                lates[placed.session_id] += 1
    for session_id, total in given_ms.items():
        length = max(seconds[session_id]) - min(seconds[session_id])
        assert total <= length * 1000 + lates[session_id] + 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["trusted", "blind", "blind", "told"]),
        st.integers(0, 12),
        st.integers(0, 30),
    ),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(steps=STEPS)
def test_ids_are_in_the_order_of_the_sittings_whenever_they_are_told(steps):
    """Starts by right and wrong clocks, told in any order, with any times, restarted each time."""
    disk, starts, ids = {}, [], {}
    for offset, (kind, number, second) in enumerate(steps, 1):
        sessions = Sessions(
            load=disk.get, boot_id="boot", timeout_s=120.0, longest_s=600.0, per_sitting=False,
            new_client_id=str,
        )  # fmt: skip
        blind = [index for index, start in enumerate(starts) if not start.trusted]
        if kind == "told" and blind:
            index = blind[number % len(blind)]
            session_id, state = sessions.resolve(
                "1.1", starts[index], lambda _, s=second: s * SECOND
            )
            assert ids.get(index, session_id) == session_id, "once and for all"
            ids[index] = session_id
        else:
            stamp = Stamp(second * SECOND, offset, "boot", kind == "trusted")
            placed = sessions.place("1.1", stamp=stamp, human=True, mark="start", own=True)
            state = placed.state
            if placed.start is None:
                ids[len(starts)] = placed.session_id
            starts.append(stamp)
        disk.update({state.client: state.state} if state else {})
        told = [ids[index] for index in sorted(ids)]
        assert told == sorted(set(told))
        rooms = zip(sorted(ids), sorted(ids)[1:], strict=False)
        assert all(ids[b] - ids[a] >= b - a for a, b in rooms), "room for those between"
