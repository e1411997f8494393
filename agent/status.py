"""What people and programs are told: one frozen Status, and its JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from agent import __version__
from agent.anchor import Moment
from agent.clock import Clock
from agent.delivery.outlet import OutletReport
from agent.event import Stamp
from agent.ga4.departure import LATE_US
from agent.queue.days import Near
from agent.queue.ledger import Books
from agent.queue.order import Dated

EXPIRES_AFTER_US = LATE_US  # then it is late: see [stream.NAME] late
DRAINING = 100  # events: more than what a busy kiosk has waiting anyway
VOLATILE = (
    "volatile",
    "the state directory does not survive a reboot; set volatile = true if that is meant",
)
STORAGE = {
    "disk_full": "the disk is full: nothing new is taken, what is stored still leaves",
    "storage_slow": "a write has been taking long: the disk may be dying",
}
OUTLET_STATES = ("clock_blocks_tls", "login_page", "offline")
# Not timedatectl set-time: it refuses while NTP is switched on, whether or not it gets through.
CLOCK_CURE = (
    'set it (date -s "YYYY-MM-DD HH:MM:SS"), let NTP through (UDP 123), or fit a clock battery'
)
RIGHT_US = 60_000_000  # a wall clock that is off by less is no reason for a certificate to fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the parts say at one moment; ``storage`` is a state word, empty when all is well.

    Times are microseconds since 1970. ``oldest_us``: when the oldest event that waits happened.
    ``taken_until_us``: from then on events may not have been taken; None: all were until now.
    """

    books: Books
    used_bytes: int
    max_bytes: int | None
    oldest_us: int | None
    taken_until_us: int | None = None
    running: bool = True
    storage: str = ""
    paused: bool = False
    volatile: bool = False
    outlets: Sequence[OutletReport] = ()
    problems: Mapping[str, str | None] | None = None  # by source
    config_problems: Sequence[str] = ()  # of the configuration that was refused
    secret_problems: Sequence[str] = ()
    near: Sequence[Near] = ()
    damage: Mapping[str, Any] | None = None  # the last one of the queue's file; see opening.Report
    set_aside: Sequence[str] = ()  # files of the queue that only a newer program can read


@dataclass(frozen=True, slots=True)
class Status:
    """The state in one word, the reason in one sentence, and the figures."""

    state: str
    reason: str
    document: Mapping[str, Any]


def status_of(seen: Observation, clock: Clock) -> Status:
    """Put together what `status`, /status and STATUS= show."""
    state, reason = _state(seen, clock)
    books = asdict(seen.books)
    traffic = {key: books.pop(key) for key in ("requests", "bytes_sent", "bytes_received")}
    document = {
        "state": state,
        "reason": reason,
        "version": __version__,
        "running": seen.running,
        "paused": seen.paused,
        "volatile": seen.volatile,
        "queue": _queue(seen, clock),
        "ledger": books | {"balanced": seen.books.balanced},
        "traffic": traffic,
        "clock": {
            "trusted": clock.trusted,
            "by": clock.trust,
            "error_s": clock.error_us / 1e6 if clock.trusted else None,
        },
        "warnings": [_warning(near) for near in seen.near],
        "streams": [asdict(report) for report in seen.outlets],
        "sources": {name: {"problem": p} for name, p in (seen.problems or {}).items()},
        "damage": dict(seen.damage) if seen.damage else None,
        "set_aside": list(seen.set_aside),
        "config_problems": list(seen.config_problems),
        "secret_problems": list(seen.secret_problems),
    }
    return Status(state, reason, document)


def oldest_us(waiting: Iterable[Dated], when: Callable[[Stamp], Moment]) -> int | None:
    """When the oldest of them happened, microseconds since 1970; None if none waits.

    A publisher's time in the future makes no event younger than it was when it was taken: what
    came after it may be as old as that.
    """
    taken = ((when(each.stamp).us, each.time_us) for each in waiting)
    return min((us if said is None else min(us, said) for us, said in taken), default=None)


def _queue(seen: Observation, clock: Clock) -> dict[str, Any]:
    now_us = clock.now_us()
    age_us = None if seen.oldest_us is None else max(0, now_us - seen.oldest_us)
    limits_us = (now_us, seen.oldest_us, seen.taken_until_us)
    until_us = min(us for us in limits_us if us is not None)
    return {
        "events": seen.books.queued,
        "bytes": seen.used_bytes,
        "max_bytes": seen.max_bytes,
        "oldest_age_s": None if age_us is None else age_us / 1e6,
        "oldest_expires_in_s": None if age_us is None else (EXPIRES_AFTER_US - age_us) / 1e6,
        "complete_until": _text(until_us),
    }


def _text(time_us: int) -> str:
    # A publisher may have said any time. Before 1970 none of them was measured.
    return datetime.fromtimestamp(max(0, time_us) / 1e6, UTC).isoformat(timespec="seconds")


def _warning(near: Near) -> str:
    """How near a stream is to a limit beyond which GA4 drops events in silence."""
    what = {
        "events_of_a_client": "events of one client on one day",
        "event_names": "different event names in 35 days",
    }[near.what]
    return f"stream {near.stream}: found {near.found:,} {what}; GA4 takes {near.limit:,}"


def clock_says(wall_us: int) -> str:
    """A wall clock's time, for the person who is to set it: microseconds since 1970 in UTC."""
    return f"{datetime.fromtimestamp(wall_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"


def _state(seen: Observation, clock: Clock) -> tuple[str, str]:
    """The worst that is the case, and why."""
    if not seen.running:
        return "stopped", "the daemon is not running; what it has is on the disk"
    if seen.storage:
        return seen.storage, STORAGE.get(seen.storage, "the disk does not take events")
    if seen.paused:
        return "paused", "delivery was paused by hand; ga4-agent resume starts it again"
    if seen.config_problems:
        return "misconfigured", f"running on the last good configuration: {seen.config_problems[0]}"
    if seen.secret_problems:
        return "misconfigured", seen.secret_problems[0]
    return (
        _outlet_state(seen.outlets, clock)
        or _source_state(seen)
        or (VOLATILE if seen.volatile else _flow_state(seen))
    )


def _outlet_state(outlets: Sequence[OutletReport], clock: Clock) -> tuple[str, str] | None:
    if not outlets:
        return "unconfigured", "no stream is configured; events are taken and kept"
    for state in ("unconfigured", "misconfigured", *OUTLET_STATES):
        for outlet in outlets:
            if outlet.state == state:
                blocks = state == "clock_blocks_tls"
                reason = _clock_blocks(outlet, clock) if blocks else outlet.reason
                return state, f"stream {outlet.stream}: {reason}"
    return None


def _clock_blocks(outlet: OutletReport, clock: Clock) -> str:
    """Why TLS is impossible, by the clock as it is now: it may have been set since."""
    wall_us = clock.wall_us()
    if clock.trusted and abs(wall_us - clock.now_us()) < RIGHT_US:
        return (
            f"{outlet.reason}; the clock is right by now: if ga4-agent flush does not help, "
            "the certificate is wrong"
        )
    return f"the clock says {clock_says(wall_us)}, before the certificate's beginning: {CLOCK_CURE}"


def _source_state(seen: Observation) -> tuple[str, str] | None:
    for name, problem in (seen.problems or {}).items():
        if problem:
            return "degraded", f"{name}: {problem}"
    return None


def _flow_state(seen: Observation) -> tuple[str, str]:
    if seen.books.queued > DRAINING:
        return "draining", f"{seen.books.queued:,} events are on their way"
    return "ok", ""
