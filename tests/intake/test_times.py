"""A publisher's time: every form that says it means the same microsecond, or it is refused."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intake.times import LATEST_US, PLAUSIBLE_US, NoTime, read_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = st.integers(PLAUSIBLE_US, LATEST_US - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def moment(time_us, hours=0):
    return (EPOCH + timedelta(microseconds=time_us)).astimezone(timezone(timedelta(hours=hours)))


@pytest.mark.parametrize(
    "said",
    [
        1767268800,
        1767268800.0,
        1767268800000,
        1767268800000000,
        1767268800000000000,
        "1767268800",
        "1767268800.000",
        " 1767268800000 ",
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:00Z",
        "2026-01-01t12:00:00z",
        "2026-01-01 12:00:00Z",
        "2026-01-01T14:00:00+02:00",
        "2026-01-01 14:00:00 +0200",
        "2026-01-01T07:00:00-05",
        "20260101T120000Z",
        "2026-01-01T12:00:00.000000000Z",
        "2026-01-01T12:00:00,000Z",
    ],
)
def test_all_these_say_the_same_moment(said):
    assert read_time(said) == 1_767_268_800_000_000


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("2026-01-01T12:00:00", "found a time without its zone, expected one with Z or an offset"),
        ("2026-01-01", "found a text that is no time, expected seconds, ms, us or ns since 1970"),
        ("12:00", "found a text that is no time"),
        ("2026-02-30T12:00:00Z", "found a text that is no time"),
        ("2026-01-01T12:00:00+25:00", "found a text that is no time"),
        ("yesterday", "found a text that is no time"),
        ("", "found an empty text"),
        (True, "found true or false"),
        (None, "found nothing"),
        ([1767268800], "found an array"),
        ({}, "found an empty object"),
        (0, "found a time before 2001, as of a clock that was never set, expected a later one, or"),
        (978_307_199, "found a time before 2001"),
        ("1970-01-01T00:05:00Z", "found a time before 2001"),
        (-1767268800, "found a time before 2001"),
        (4_102_444_800 * 10**9, "found a time after 2100, expected an earlier one"),
        ("2100-01-01T00:00:00Z", "found a time after 2100"),
        (10**4000, "found a time after 2100"),
        ("1e999", "found a time after 2100"),
    ],
)
def test_what_tells_no_plausible_moment_is_refused(said, told):
    with pytest.raises(NoTime) as refused:
        read_time(said)
    assert str(refused.value).startswith(told)


def test_a_clock_that_was_never_set_counts_where_it_is_corrected():
    assert read_time(300, early=True) == 300_000_000
    assert read_time("1970-01-01T00:05:00Z", early=True) == 300_000_000
    for said in (0, "1969-12-31T23:59:59Z", -1):
        with pytest.raises(NoTime, match="found no time after the start of 1970"):
            read_time(said, early=True)


# Algebra


@given(time_us=US, early=st.booleans())
def test_whole_numbers_of_every_unit_come_back(time_us, early):
    assert read_time(time_us, early=early) == time_us
    assert read_time(time_us * 1000, early=early) == time_us
    assert read_time(time_us // 1000, early=early) == time_us // 1000 * 1000
    assert read_time(time_us // 1_000_000, early=early) == time_us // 1_000_000 * 1_000_000


@given(time_us=US)
def test_seconds_with_a_fraction_come_back_to_the_microsecond(time_us):
    assert read_time(time_us / 1_000_000) == time_us
    assert read_time(str(Decimal(time_us) / 1_000_000)) == time_us


@given(time_us=US, hours=st.integers(-23, 23))
def test_iso_8601_comes_back_from_every_zone(time_us, hours):
    said = moment(time_us, hours).isoformat()
    assert read_time(said) == time_us
    assert read_time(said.replace("T", " ")) == time_us


@given(time_us=st.integers(86_400_000_000, LATEST_US - 1), hours=st.integers(-11, 11))
def test_iso_8601_comes_back_from_1970_too(time_us, hours):
    assert read_time(moment(time_us, hours).isoformat(), early=True) == time_us


@given(
    value=JSON | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Z-]*"), early=st.booleans()
)
def test_anything_is_a_plausible_time_or_refused(value, early):
    try:
        time_us = read_time(value, early=early)
    except NoTime as error:
        assert str(error).startswith("found ")  # noqa: PT017 - what is told is the point
        return
    assert (1 if early else PLAUSIBLE_US) <= time_us < LATEST_US
