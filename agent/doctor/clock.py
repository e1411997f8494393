"""The clock: a device without a battery begins in 1970, and then TLS refuses every certificate."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.anchor import EARLIEST_US
from agent.doctor.diagnosis import Diagnosis, ok, trouble
from agent.status import CLOCK_CURE, clock_says

SUBJECT = "clock"
BLOCKS = "clock_blocks_tls"
FAR_US = 60_000_000  # off by more, a clock is wrong; by less, an answer was slow
DAY_S = 86_400
SOURCES = {"ntp": "NTP", "date": "the Date of an answer"}
NTP_ON = "turn NTP on (timedatectl set-ntp true) and let it through (UDP 123)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the endpoint's clock says: this device's lacks ``behind_us``, give or take the error."""

    behind_us: int
    error_us: int

    @property
    def surely_us(self) -> int:
        """At least so far apart are the clocks."""
        return max(0, abs(self.behind_us) - self.error_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """What is known of the time.

    ``wall_us``: this device's clock; ``ntp``: whether the kernel says that NTP sets it;
    ``daemon``: the daemon's opinion (`clock` of its status), None if it was not heard; ``heard``:
    a verified answer's; ``blocked``: the streams whose endpoint has a certificate of the future.
    """

    wall_us: int
    ntp: bool
    daemon: Mapping[str, object] | None = None
    heard: Heard | None = None
    blocked: tuple[str, ...] = ()


def examine(seen: Witnesses) -> Diagnosis:
    """The worst that can be said of it."""
    possible = seen.wall_us >= EARLIEST_US
    says = f"it says {clock_says(seen.wall_us)}"
    if seen.blocked:
        return _blocks(seen, says, right=possible and seen.ntp)
    if not possible:
        return trouble(SUBJECT, f"{says}, which cannot be{_compared(seen)}", CLOCK_CURE)
    if seen.heard and seen.heard.surely_us > FAR_US:
        return _wrong(seen, says)
    return _vouched(seen, says)


def _blocks(seen: Witnesses, says: str, *, right: bool) -> Diagnosis:
    streams = ", ".join(seen.blocked)
    found = f"{BLOCKS}: {says}, before the beginning of the certificate that stream {streams} meets"
    if right:
        cure = "the clock is set by NTP, so the certificate is wrong: ask whoever runs the endpoint"
        return trouble(SUBJECT, found, cure)
    return trouble(SUBJECT, found, CLOCK_CURE)


def _wrong(seen: Witnesses, says: str) -> Diagnosis:
    if seen.ntp:
        cure = "NTP sets it, so look which of the two is wrong: timedatectl timesync-status"
        return trouble(SUBJECT, f"{says}{_compared(seen)}", cure)
    return trouble(SUBJECT, f"{says}{_compared(seen)}", CLOCK_CURE)


def _vouched(seen: Witnesses, says: str) -> Diagnosis:
    if seen.ntp:
        return ok(SUBJECT, f"{says}, set by NTP{_compared(seen)}")
    if seen.daemon and seen.daemon.get("trusted"):
        source = SOURCES.get(str(seen.daemon.get("by")), "somebody")
        return ok(SUBJECT, f"{says}, without NTP; the daemon trusts {source}{_compared(seen)}")
    if seen.heard:
        return ok(SUBJECT, f"{says}, without NTP{_compared(seen)}, which is enough for the agent")
    found = (
        f"{says}, without NTP, and no answer came to compare it with: nothing is sent until then"
    )
    return trouble(SUBJECT, found, NTP_ON)


def _compared(seen: Witnesses) -> str:
    if seen.heard is None:
        return ""
    apart = seen.heard.surely_us
    if not apart:
        return f", as the endpoint does (to {seen.heard.error_us / 1e6:.1f} s)"
    direction = "behind" if seen.heard.behind_us > 0 else "ahead of"
    return f", {_long(apart / 1e6)} {direction} the endpoint"


def _long(seconds: float) -> str:
    if seconds > DAY_S:
        return f"{seconds / DAY_S:,.0f} days"
    return f"{seconds:,.1f} s"
