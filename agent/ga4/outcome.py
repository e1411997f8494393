"""What an answer means: delivered, rejected, or to be tried again later.

GA4 answers 2xx to anything (reference, "Response codes"), and so does a login page: only what
surely came from the endpoint and is empty counts as delivered.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from agent.event import Stream

RETRY_AFTER_MAX = 3600.0  # seconds: a wrong date must not silence a kiosk for weeks
SECOND_US = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Older than this program: the server's clock is wrong too, as that of this very machine may be.
FIRST_DATE = datetime(2026, 1, 1, tzinfo=UTC)
# What asks for patience, whatever the path.
WAITS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

State = Literal["ok", "offline", "login_page", "clock_blocks_tls", "misconfigured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer from the endpoint, as far as it matters. Empty texts: no such header."""

    status: int
    empty: bool
    content_type: str = ""
    retry_after: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """No answer: why, for people, and whether the request may have been processed."""

    reason: str
    maybe_sent: bool
    clock_blocks_tls: bool = False


@dataclass(frozen=True, slots=True)
class ServerTime:
    """The time that an answer named, in microseconds since 1970, give or take the error."""

    us: int
    error_us: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The endpoint took the events."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The endpoint refused these events for what they are; others may pass."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Nothing was decided: keep the events. ``after`` is the seconds the server asked for."""

    state: State
    reason: str
    after: float | None = None


Outcome = Delivered | Rejected | Retry


def triage(answer: Response | NoAnswer, stream: Stream) -> Outcome:
    """What to do with the events that were sent."""
    if isinstance(answer, NoAnswer):
        state: State = "clock_blocks_tls" if answer.clock_blocks_tls else "offline"
        return Retry(state, answer.reason)
    family = answer.status // 100
    if family == 2:  # noqa: PLR2004 - 2xx
        return _taken(answer, stream)
    if family == 3:  # noqa: PLR2004 - 3xx
        return Retry("login_page", f"found a redirect ({answer.status}), expected 204")
    if answer.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        return Rejected(f"refused_{answer.status}")
    return _kept(answer)


def maybe_counted(answer: Response | NoAnswer) -> bool:
    """Whether events that were not reported as delivered may have been counted all the same.

    A refusal (4xx), a redirect and a login page say that nothing was done with the request. A
    server error does not: the events may have passed the part that failed. Nor does a 2xx with a
    body that was not expected.
    """
    if isinstance(answer, NoAnswer):
        return answer.maybe_sent
    if answer.status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED or _is_page(answer):
        return False
    return answer.status // 100 in (2, 5)


def server_time(answer: Response | NoAnswer, stream: Stream) -> ServerTime | None:
    """What time it is, as an answer that surely came from the endpoint says in its ``Date``.

    It is the middle of the second that was named. None if none was, if somebody in between may
    have answered, or if the answer is one of trouble.
    """
    if isinstance(answer, NoAnswer) or not _verified(stream.endpoint) or _is_page(answer):
        return None
    if answer.status // 100 not in (2, 4):
        return None
    date = _http_date(answer.date)
    if date is None or date < FIRST_DATE:
        return None
    half = SECOND_US // 2
    return ServerTime((date - EPOCH) // timedelta(microseconds=1) + half, half)


def probed(answer: Response | NoAnswer, stream: Stream) -> Retry | None:
    """What stands in the way after a request without events; None: events may be tried.

    The path of the probe need not exist: only what would hold for events too is trouble.
    """
    if isinstance(answer, NoAnswer) or answer.status // 100 in (3, 5) or _is_page(answer):
        outcome = triage(answer, stream)
    elif answer.status in WAITS:
        outcome = _kept(answer)
    else:
        return None
    return outcome if isinstance(outcome, Retry) else None


def _verified(endpoint: str) -> bool:
    """Whether an answer proves who gave it: by its certificate, or because it was this machine."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _is_page(answer: Response) -> bool:
    """Whether it is a page for people where none was asked for."""
    return answer.status // 100 == 2 and answer.content_type.lower().startswith("text/html")  # noqa: PLR2004 - 2xx


def _taken(answer: Response, stream: Stream) -> Outcome:
    if answer.status == HTTPStatus.NO_CONTENT:
        return Delivered()
    if _is_page(answer):
        return Retry("login_page", f"found a web page ({answer.status}), expected 204")
    if answer.empty or stream.accept_body:
        return Delivered()
    return Retry(
        "misconfigured",
        f"found {answer.status} with a body, expected 204; set accept_body = true "
        "if this endpoint is your own container",
    )


def _kept(answer: Response) -> Retry:
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        return Retry(
            "misconfigured", f"found {answer.status}, expected 204; check endpoint and stream"
        )
    if answer.status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:
        return Retry("login_page", "found 511 (log in to the network), expected 204")
    return Retry("offline", f"found {answer.status}, expected 204", retry_after(answer))


def retry_after(answer: Response) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date), at most an hour; None if unsaid.

    A date is compared with the server's own ``Date``, not with this device's clock.
    """
    text = answer.retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_MAX)
    until, now = _http_date(text), _http_date(answer.date)
    if until is None or now is None:
        return None
    return min(max((until - now).total_seconds(), 0.0), RETRY_AFTER_MAX)


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=date.tzinfo or UTC)
