"""What people and programs are told: one frozen Status, and its JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from agent import __version__
from agent.clock import Clock
from agent.delivery.outlet import OutletReport
from agent.event import Event
from agent.queue.ledger import Books

EXPIRES_AFTER = 72 * 3600.0  # seconds: GA4 moves older events in time (sending-events guide)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the parts say at one moment; ``storage`` is a state word, empty when all is well."""

    books: Books
    used_bytes: int
    max_bytes: int | None
    oldest: Event | None
    running: bool = True
    storage: str = ""
    paused: bool = False
    volatile: bool = False
    outlets: Sequence[OutletReport] = ()
    problems: Mapping[str, str | None] | None = None  # by source
    config_problems: Sequence[str] = ()  # of the configuration that was refused
    secret_problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """The state in one word, the reason in one sentence, and the figures."""

    state: str
    reason: str
    document: Mapping[str, Any]


def status_of(seen: Observation, clock: Clock) -> Status:
    """Put together what `status`, /status and STATUS= show."""
    state, reason = _state(seen)
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
        "clock": {"trusted": clock.trusted},
        "streams": [asdict(report) for report in seen.outlets],
        "sources": {name: {"problem": p} for name, p in (seen.problems or {}).items()},
        "config_problems": list(seen.config_problems),
        "secret_problems": list(seen.secret_problems),
    }
    return Status(state, reason, document)


def _queue(seen: Observation, clock: Clock) -> dict[str, Any]:
    age = None if seen.oldest is None else clock.age_s(seen.oldest.stamp)
    return {
        "events": seen.books.queued,
        "bytes": seen.used_bytes,
        "max_bytes": seen.max_bytes,
        "oldest_age_s": age,
        "oldest_expires_in_s": None if age is None else EXPIRES_AFTER - age,
        "complete_until": _complete_until(seen, clock),
    }


def _complete_until(seen: Observation, clock: Clock) -> str:
    """The time up to which everything was delivered."""
    wall_us = clock.wall_us() if seen.oldest is None else seen.oldest.stamp.wall_us
    return datetime.fromtimestamp(wall_us / 1e6, UTC).isoformat(timespec="seconds")


def _state(seen: Observation) -> tuple[str, str]:
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
        _outlet_state(seen.outlets)
        or _source_state(seen)
        or (VOLATILE if seen.volatile else _flow_state(seen))
    )


def _outlet_state(outlets: Sequence[OutletReport]) -> tuple[str, str] | None:
    if not outlets:
        return "unconfigured", "no stream is configured; events are taken and kept"
    for state in ("unconfigured", "misconfigured", *OUTLET_STATES):
        for outlet in outlets:
            if outlet.state == state:
                return state, f"stream {outlet.stream}: {outlet.reason}"
    return None


def _source_state(seen: Observation) -> tuple[str, str] | None:
    for name, problem in (seen.problems or {}).items():
        if problem:
            return "degraded", f"{name}: {problem}"
    return None


def _flow_state(seen: Observation) -> tuple[str, str]:
    if seen.books.queued > DRAINING:
        return "draining", f"{seen.books.queued:,} events are on their way"
    return "ok", ""
