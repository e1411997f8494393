"""What stands between this device and an endpoint, found by a request without events."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from agent.doctor.clock import Heard
from agent.doctor.diagnosis import Diagnosis, ok, trouble
from agent.event import Stream
from agent.ga4.outcome import NoAnswer, Response, probed, server_time

LOG_IN = (
    "log this device in to its network, or have it let through: somebody answers in GA4's place"
)
LATER = "the endpoint answers and asks to wait: look again in a while"
CLOCK = "see the line clock"
STRANGE = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
"""What GA4 answers nowhere: of events it means that they are kept, and tried hourly."""
GOOGLE = ".google-analytics.com"
CURES = {"login_page": LOG_IN, "offline": LATER, "clock_blocks_tls": CLOCK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An endpoint that was asked: for which streams, when by this device's clock, the answer.

    ``stream``: any of those that share the endpoint; ``names``: all of them. ``delivers``: whether
    the daemon has delivered events there, and nothing stands in their way; ``refused``: what it
    says of an endpoint that does not want them.
    """

    stream: Stream
    names: tuple[str, ...]
    answer: Response | NoAnswer
    sent_us: int
    received_us: int
    delivers: bool = False
    refused: str = ""

    @property
    def blocked(self) -> bool:
        """Whether TLS failed because the certificate begins in this clock's future."""
        return isinstance(self.answer, NoAnswer) and self.answer.clock_blocks_tls

    @property
    def heard(self) -> Heard | None:
        """How this device's clock differs from the endpoint's, if that surely spoke."""
        said = server_time(self.answer, self.stream)
        if said is None:
            return None
        took_us = self.received_us - self.sent_us
        middle_us = self.sent_us + took_us // 2
        return Heard(behind_us=said.us - middle_us, error_us=said.error_us + abs(took_us) // 2)


def examine(probe: Probe) -> Diagnosis:
    """The one line for an endpoint."""
    subject = f"endpoint {', '.join(probe.names)}"
    outcome = probed(probe.answer, probe.stream)
    if isinstance(probe.answer, Response) and outcome is None:
        return _heard(subject, probe, probe.answer)
    if outcome is None:
        raise ValueError("cannot judge an endpoint: found neither an answer nor a reason for none")
    named = f"{outcome.state}: {outcome.reason}"
    if isinstance(probe.answer, Response) or probe.blocked:
        # The reason of a clock that is wrong names a cure, but the line of the clock a better one.
        found = named.rpartition("; ")[0] or named
        return trouble(subject, found, CURES[outcome.state])
    return trouble(subject, named)


def _heard(subject: str, probe: Probe, answer: Response) -> Diagnosis:
    """It answers. Whether it takes events, too, only the daemon's deliveries can tell."""
    check = f"check {' and '.join(f'[stream.{name}]' for name in probe.names)} endpoint"
    if probe.refused:
        found = f"{_answered(probe, answer)}, but it does not take the daemon's events: "
        return trouble(subject, found + probe.refused.partition("; ")[0], check)
    if answer.status not in STRANGE or (probe.delivers and not _is_google(probe)):
        return ok(subject, _answered(probe, answer))
    found = f"{probe.stream.endpoint} answers {answer.status}, which GA4 would not"
    own = (
        ""
        if _is_google(probe)
        else (
            "; of an own server container this may be so: it is right once ga4-agent status says "
            "that something was delivered"
        )
    )
    return trouble(subject, found, check + own)


def _is_google(probe: Probe) -> bool:
    return (urlsplit(probe.stream.endpoint).hostname or "").endswith(GOOGLE)


def _answered(probe: Probe, answer: Response) -> str:
    how = "verified TLS" if probe.stream.endpoint.startswith("https:") else "this device"
    took_s = max(0, probe.received_us - probe.sent_us) / 1e6
    return f"{probe.stream.endpoint} answers over {how} ({answer.status}) in {took_s:.1f} s"
