"""What an event looks like when it leaves now, or why it must not leave any more. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from agent.anchor import Moment
from agent.event import NOTHING, Event, Json, Stamp, Stream
from agent.ga4 import precedence
from agent.ga4.rules.limits import FUTURE_US, HOUR_US, PARAMS_MAX
from agent.ga4.rules.recommended import RECOMMENDED, UNDESCRIBED

SECOND_US = 1_000_000
LATE_US = 71 * HOUR_US  # GA4 moves what is older than 72 h (SEND); an hour for what is under way
UNCERTAIN_US = 60 * SECOND_US  # a larger error is told with the event
UNKNOWN_US = 12 * HOUR_US  # a larger error would put events on another day
AGES_US: Mapping[str, int] = {"24h": 24 * HOUR_US, "48h": 48 * HOUR_US}
LONGEST_US = 10**16 - 1  # in digits, until the year 2286
SESSION_PARAMS = frozenset(precedence.SESSION)
LATE = "late_h"  # reports leave restamped events out by it, so no restamped event is without it
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Withheld:
    """An event that nobody would count as what it was: it becomes a dead letter."""

    reason: Literal["expired", "time_unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Departing:
    """An event as it leaves. Times are microseconds since 1970.

    ``time_us``: the time that is sent. ``happened_us``: when it happened, which is another time
    only if it was restamped. ``counts``: ledger counters to be added when it is delivered.
    """

    event: Event
    time_us: int
    happened_us: int
    params: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    counts: Mapping[str, int] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms events leave.

    ``now_us``: the true time. ``when``: the true time of a stamp. ``session_id``: that of an
    event's sitting; it is asked in the events' order, and only for those that leave with one.
    """

    stream: Stream
    now_us: int
    when: Callable[[Stamp], Moment]
    session_id: Callable[[Event], int]

    def moment(self, event: Event) -> Moment:
        """When it happened."""
        return happened(event, self.when)

    def late(self, moment: Moment) -> bool:
        """Whether GA4 may move it in time."""
        return self.now_us - moment.us > LATE_US

    def restamped(self, moment: Moment) -> bool:
        """Whether it leaves as an event of now."""
        return self.late(moment) and self.stream.late == "restamp"

    def withheld(self, moment: Moment) -> Withheld | None:
        """Why it must not leave, if it must not."""
        if moment.error_us > UNKNOWN_US:
            return Withheld("time_unknown")
        if self.late(moment) and self.stream.late == "dead":
            return Withheld("expired")
        return None


def happened(event: Event, when: Callable[[Stamp], Moment]) -> Moment:
    """When an event happened. A publisher elsewhere is taken at its word."""
    return when(event.stamp) if event.time_us is None else Moment(event.time_us, 0)


def departures(events: Sequence[Event], terms: Terms) -> list[Departing | Withheld]:
    """What becomes of each of these events of one sender.

    Asked again by the same clock the answer is the same, so that repeats can be told, but for
    events that are restamped: their time is always now.
    """
    moments = [terms.moment(event) for event in events]
    wanted = [terms.now_us if terms.restamped(moment) else moment.us for moment in moments]
    return [
        terms.withheld(moment) or _departing(event, moment, time_us, terms)
        for event, moment, time_us in zip(
            events, moments, _never_later(wanted, terms.now_us), strict=True
        )
    ]


def largest(event: Event) -> Departing:
    """The event with all that it could ever leave with: as many bytes as it may take."""
    more = {
        "session_id": LONGEST_US // SECOND_US,
        "time_uncertain_s": UNKNOWN_US // SECOND_US,
        "original_time": _iso(LONGEST_US),
        "late_h": LONGEST_US // HOUR_US,
    }
    return Departing(
        event=event,
        time_us=LONGEST_US,
        happened_us=LONGEST_US,
        params={**more, **event.params},
    )


def _never_later(times: Sequence[int], now_us: int) -> list[int]:
    """Times up to now. Those cut back stay apart and in order: they are all that tells it."""
    ceiling = now_us
    kept: list[int] = []
    for time_us in reversed(times):
        kept.append(min(time_us, ceiling))
        if time_us >= ceiling:
            ceiling -= 1
    return kept[::-1]


def _departing(event: Event, moment: Moment, time_us: int, terms: Terms) -> Departing:
    own = dict(event.params)
    if terms.restamped(moment):
        own = {name: value for name, value in own.items() if name not in SESSION_PARAMS}
    params, counts = _joined(event, own, _more(event, moment, terms))
    return Departing(
        event=event,
        time_us=time_us,
        happened_us=min(moment.us, time_us),
        params=params,
        counts=_times(terms.now_us - moment.us) | counts,
    )


def _more(event: Event, moment: Moment, terms: Terms) -> dict[str, Json]:
    """What is added, the last to give way first."""
    more: dict[str, Json] = {}
    restamped = terms.restamped(moment)
    if restamped:
        more[LATE] = (terms.now_us - moment.us) // HOUR_US
    elif event.sitting is not None:
        more["session_id"] = terms.session_id(event)
    if restamped:
        more["original_time"] = _iso(moment.us)
    if moment.error_us > UNCERTAIN_US and terms.stream.uncertain_time:
        more["time_uncertain_s"] = -(-moment.error_us // SECOND_US)
    return more


def _joined(
    event: Event, own: dict[str, Json], more: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, int]]:
    """Params with as many more as GA4 takes, and counts of what gave way for that.

    First the event_id, if the agent sent it as a param. Of the rest that is there already nobody
    knows here who put it there, so none of it goes, but for one if there is no room for ``LATE``.
    """
    wanted = {name: value for name, value in more.items() if name not in own}
    left_out, dropped = len(more) - len(wanted), 0
    if len(own) + len(wanted) > PARAMS_MAX and own.get(precedence.EVENT_ID) == event.event_id:
        del own[precedence.EVENT_ID]
        left_out += 1
    if LATE in wanted and len(own) >= PARAMS_MAX:
        del own[_least(event, own)]
        dropped = 1
    room = max(dropped, PARAMS_MAX - len(own))
    taken = dict(list(wanted.items())[:room])
    left_out += len(wanted) - len(taken)
    counts = {"noted.param_left_out": left_out, "repaired.param_dropped": dropped}
    return own | taken, {name: number for name, number in counts.items() if number}


def _least(event: Event, own: Mapping[str, Json]) -> str:
    """The param that can be done without; of 25 there is always one."""
    required = RECOMMENDED.get(event.name, UNDESCRIBED).required | {precedence.TRAFFIC_TYPE}
    return precedence.of_publisher(own, required)[0]


def _times(age_us: int) -> dict[str, int]:
    late = {f"noted.left_after_{name}": 1 for name, limit in AGES_US.items() if age_us > limit}
    return late | ({"noted.future_moved": 1} if -age_us > FUTURE_US else {})


def _iso(time_us: int) -> str:
    # A publisher may have said any time. Before 1970 none of them was measured.
    date = EPOCH + timedelta(microseconds=max(time_us, 0))
    return date.isoformat(timespec="microseconds").replace("+00:00", "Z")
