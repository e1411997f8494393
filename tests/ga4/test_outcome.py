"""An answer is Delivered, Rejected or Retry, and only what surely came from GA4 is Delivered."""

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import Stream
from agent.ga4.outcome import (
    RETRY_AFTER_MAX,
    Delivered,
    NoAnswer,
    Rejected,
    Response,
    Retry,
    maybe_counted,
    probed,
    retry_after,
    server_time,
    triage,
)

GA4 = Stream(name="main", endpoint="https://x.example", measurement_id="G-1")
CONTAINER = Stream(name="own", endpoint="https://x.example", measurement_id="G-1", accept_body=True)
HTML, JSON = "text/html; charset=utf-8", "application/json"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def answer(status, *, body=False, content_type="", retry="", date=""):
    return Response(
        status=status, empty=not body, content_type=content_type, retry_after=retry, date=date
    )


def meaning(found, stream=GA4):
    """The outcome in a word."""
    outcome = triage(found, stream)
    return outcome.state if isinstance(outcome, Retry) else type(outcome).__name__.lower()


TAKEN = [
    # status, content type, has a body, without accept_body, with it
    (204, "", False, "delivered", "delivered"),
    (204, HTML, False, "delivered", "delivered"),
    (200, "", False, "delivered", "delivered"),
    (202, JSON, False, "delivered", "delivered"),
    (299, "", False, "delivered", "delivered"),
    (200, JSON, True, "misconfigured", "delivered"),
    (200, "", True, "misconfigured", "delivered"),
    (206, "image/gif", True, "misconfigured", "delivered"),
    (200, HTML, True, "login_page", "login_page"),
    (200, "TEXT/HTML", True, "login_page", "login_page"),
    (200, HTML, False, "login_page", "login_page"),
    (201, "text/html", True, "login_page", "login_page"),
]


@pytest.mark.parametrize(("status", "content_type", "body", "strict", "lenient"), TAKEN)
def test_a_2xx_is_delivered_only_if_it_is_empty_or_the_stream_takes_bodies(
    status, content_type, body, strict, lenient
):
    found = answer(status, body=body, content_type=content_type)
    assert (meaning(found, GA4), meaning(found, CONTAINER)) == (strict, lenient)


REFUSED = [
    *((status, "login_page") for status in (300, 301, 302, 303, 304, 307, 308, 511)),
    *((status, "rejected") for status in (400, 413)),
    *((status, "misconfigured") for status in (401, 403, 404)),
    *((status, "offline") for status in (402, 405, 407, 408, 410, 418, 425, 429, 451, 499)),
    *((status, "offline") for status in (500, 501, 502, 503, 504, 599)),
    *((status, "offline") for status in (100, 101, 0, 600, 999)),
]


@pytest.mark.parametrize("stream", [GA4, CONTAINER], ids=["strict", "accept_body"])
@pytest.mark.parametrize("content_type", ["", HTML, JSON])
@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize(("status", "word"), REFUSED)
def test_every_other_status_means_the_same_whatever_comes_with_it(
    status, word, body, content_type, stream
):
    assert meaning(answer(status, body=body, content_type=content_type), stream) == word


@pytest.mark.parametrize("status", [400, 413])
def test_the_reason_of_a_refusal_names_the_status(status):
    assert triage(answer(status), GA4) == Rejected(f"refused_{status}")


@pytest.mark.parametrize("maybe_sent", [False, True])
def test_no_answer_keeps_everything_whether_or_not_it_may_have_arrived(maybe_sent):
    found = triage(NoAnswer(reason="cannot connect", maybe_sent=maybe_sent), GA4)
    assert found == Retry("offline", "cannot connect")


def test_a_certificate_of_the_future_is_a_clock_that_blocks_tls():
    found = triage(NoAnswer(reason="r", maybe_sent=False, clock_blocks_tls=True), GA4)
    assert found == Retry("clock_blocks_tls", "r")


@pytest.mark.parametrize("status", [301, 401, 429, 503, 511])
def test_the_reason_says_what_was_found_and_what_was_expected(status):
    reason = triage(answer(status), GA4).reason
    assert f"found {status}" in reason or f"({status})" in reason
    assert "expected 204" in reason


def test_a_200_with_a_body_says_how_to_accept_it():
    assert "accept_body = true" in triage(answer(200, body=True), GA4).reason


# Retry-After


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_retry_after_is_honoured_wherever_waiting_helps(status):
    assert triage(answer(status, retry="30"), GA4).after == 30.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("30", 30.0),
        ("  30  ", 30.0),
        ("3600", 3600.0),
        ("3601", RETRY_AFTER_MAX),
        ("9" * 5000, RETRY_AFTER_MAX),
        ("0000000000030", 30.0),
        ("", None),
        ("   ", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("30 s", None),
        ("soon", None),
        ("٣٠", None),
        ("²", None),
        ("NaN", None),
    ],
)
def test_retry_after_in_seconds(text, seconds):
    assert retry_after(answer(503, retry=text, date=format_datetime(NOON))) == seconds


@given(zeros=st.integers(0, 20), seconds=st.integers(0, 5000) | st.integers(0, 10**40))
def test_every_number_is_read_as_that_number_up_to_an_hour(zeros, seconds):
    text = "0" * zeros + str(seconds)
    assert retry_after(answer(503, retry=text)) == min(seconds, RETRY_AFTER_MAX)


@given(seconds=st.integers(-(10**7), 10**7), east=st.integers(-12, 14))
def test_a_date_is_measured_from_the_servers_own_date(seconds, east):
    """The device's clock plays no part: it may say 1970."""
    until = (NOON + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=east)))
    found = answer(503, retry=format_datetime(until), date=format_datetime(NOON))
    assert retry_after(found) == min(max(float(seconds), 0.0), RETRY_AFTER_MAX)


@pytest.mark.parametrize(
    ("retry", "date"),
    [
        (format_datetime(NOON), ""),
        (format_datetime(NOON), "yesterday"),
        ("Sun, 99 Mar 2026 12:00:00 GMT", format_datetime(NOON)),
        ("Sun, 01 Mar 99999 12:00:00 GMT", format_datetime(NOON)),
        ("Sun, 01 Mar 2026 12:00:00 +9999", format_datetime(NOON)),
        ("2026-03-01T12:00:00Z", format_datetime(NOON)),
    ],
)
def test_a_date_that_cannot_be_measured_asks_for_nothing(retry, date):
    assert retry_after(answer(503, retry=retry, date=date)) is None


def test_a_date_without_a_zone_is_utc():
    found = answer(503, retry="Sun, 01 Mar 2026 12:01:00 -0000", date=format_datetime(NOON))
    assert retry_after(found) == 60.0


# What a probe says


PROBED = [
    # status, content type, has a body, what stands in the way
    (200, JSON, True, None),
    (204, "", False, None),
    (400, "", False, None),
    (401, "", False, None),
    (403, HTML, True, None),
    (404, HTML, True, None),
    (405, "", False, None),
    (411, "", False, None),
    (413, "", False, None),
    (200, HTML, True, "login_page"),
    (302, "", False, "login_page"),
    (408, "", False, "offline"),
    (425, "", False, "offline"),
    (429, "", False, "offline"),
    (500, "", False, "offline"),
    (503, "", False, "offline"),
    (511, HTML, True, "login_page"),
]


@pytest.mark.parametrize(("status", "content_type", "body", "state"), PROBED)
def test_of_a_probe_only_what_would_hold_for_events_too_is_trouble(
    status, content_type, body, state
):
    trouble = probed(answer(status, body=body, content_type=content_type), GA4)
    assert (trouble and trouble.state) == state


def test_a_probe_that_is_asked_to_wait_says_for_how_long():
    assert probed(answer(429, retry="30"), GA4).after == 30
    assert probed(answer(503, retry="30"), GA4).after == 30


@pytest.mark.parametrize("blocks", [True, False])
def test_a_probe_without_an_answer_is_trouble_like_any_other_request(blocks):
    none = NoAnswer(reason="r", maybe_sent=True, clock_blocks_tls=blocks)
    assert probed(none, GA4) == triage(none, GA4)


# What time it is there


NOON_US = int(NOON.timestamp()) * 1_000_000


@pytest.mark.parametrize("status", [200, 204, 299, 400, 401, 403, 404, 405, 413, 429])
@pytest.mark.parametrize("endpoint", ["https://x.example", "HTTPS://x.example:8443/ga4"])
def test_a_verified_answer_tells_the_time_as_the_middle_of_its_second(status, endpoint):
    stream = Stream(name="main", endpoint=endpoint)
    told = server_time(answer(status, date=format_datetime(NOON)), stream)
    assert (told.us, told.error_us) == (NOON_US + 500_000, 500_000)


@pytest.mark.parametrize(
    ("endpoint", "believed"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:80", True),
        ("http://localhost:1", True),
        ("http://10.0.0.1", False),
        ("http://x.example", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost.example", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
def test_without_a_certificate_only_this_machine_is_believed(endpoint, believed):
    stream = Stream(name="main", endpoint=endpoint)
    told = server_time(answer(204, date=format_datetime(NOON)), stream)
    assert (told is not None) == believed


@pytest.mark.parametrize("status", [100, 301, 302, 500, 503, 511])
def test_neither_a_redirect_nor_a_server_in_trouble_is_asked_for_the_time(status):
    assert server_time(answer(status, date=format_datetime(NOON)), GA4) is None


def test_a_login_page_is_not_believed():
    page = answer(200, body=True, content_type=HTML, date=format_datetime(NOON))
    assert server_time(page, CONTAINER) is None


@pytest.mark.parametrize(
    ("date", "believed"),
    [
        ("", False),
        ("yesterday", False),
        ("Thu, 01 Jan 1970 00:00:00 GMT", False),
        ("Wed, 31 Dec 2025 23:59:59 GMT", False),
        ("Thu, 01 Jan 2026 00:00:00 GMT", True),
    ],
)
def test_a_time_from_before_this_program_is_no_time(date, believed):
    assert (server_time(answer(204, date=date), GA4) is not None) == believed


def test_without_an_answer_there_is_no_time():
    assert server_time(NoAnswer(reason="r", maybe_sent=True), GA4) is None


# What may have been counted


@pytest.mark.parametrize(
    ("found", "counted"),
    [
        (NoAnswer(reason="r", maybe_sent=True), True),
        (NoAnswer(reason="r", maybe_sent=False), False),
        (answer(500), True),
        (answer(502), True),
        (answer(503, retry="30"), True),
        (answer(504), True),
        (answer(200, body=True, content_type=JSON), True),
        (answer(200, body=True, content_type=HTML), False),
        (answer(511, body=True, content_type=HTML), False),
        (answer(302), False),
        *((answer(status), False) for status in (400, 401, 403, 404, 405, 407, 408, 413, 425, 429)),
    ],
    ids=str,
)
def test_only_a_clear_no_says_that_nothing_was_counted(found, counted):
    assert maybe_counted(found) == counted


DATE_PARTS = [
    "Sun,", "Mon", "01", "99", "Mar", "Foo", "2026", "-1", "12:00:00", "1:2", "99:99:99", ":",
    "GMT", "+0100", "-0000", "+99999999", "EST", ",", "-", "01-Mar-26", "9" * 30, "²",
]  # fmt: skip
DATEISH = st.lists(st.sampled_from(DATE_PARTS), max_size=8).map(" ".join)
HEADERS = st.text(max_size=30) | DATEISH
ANSWERS = st.builds(
    Response,
    status=st.integers(0, 999) | st.sampled_from([200, 204, 302, 400, 401, 413, 429, 503]),
    empty=st.booleans(),
    content_type=st.sampled_from(["", HTML, JSON]) | st.text(max_size=10),
    retry_after=HEADERS,
    date=HEADERS,
) | st.builds(
    NoAnswer, reason=st.text(max_size=9), maybe_sent=st.booleans(), clock_blocks_tls=st.booleans()
)


@given(found=ANSWERS, stream=st.sampled_from([GA4, CONTAINER]))
def test_every_answer_has_one_of_three_meanings(found, stream):
    outcome = triage(found, stream)
    assert isinstance(outcome, Delivered | Rejected | Retry)
    if isinstance(outcome, Retry):
        assert outcome.after is None or 0 <= outcome.after <= RETRY_AFTER_MAX


@given(found=ANSWERS, stream=st.sampled_from([GA4, CONTAINER]))
def test_delivered_is_a_204_or_a_2xx_that_no_login_page_gives(found, stream):
    if isinstance(found, NoAnswer):
        expected = False
    else:
        web_page = found.content_type.lower().startswith("text/html")
        other = 200 <= found.status <= 299 and (found.empty or stream.accept_body)
        expected = found.status == 204 or (other and not web_page)
    assert isinstance(triage(found, stream), Delivered) == expected


@given(found=ANSWERS)
def test_only_400_and_413_are_blamed_on_the_events(found):
    blamed = isinstance(triage(found, GA4), Rejected)
    assert blamed == (isinstance(found, Response) and found.status in (400, 413))


@given(found=ANSWERS, stream=st.sampled_from([GA4, CONTAINER]))
def test_every_answer_to_a_probe_is_understood(found, stream):
    told, trouble = server_time(found, stream), probed(found, stream)
    assert told is None or told.us >= 1_767_225_600_000_000  # 2026
    assert trouble is None or isinstance(trouble, Retry)
    assert maybe_counted(found) in (True, False)
