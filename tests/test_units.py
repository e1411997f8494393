"""Durations and sizes: what people may write, what they are told, and what they read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.units import UnitError, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0 s", 0.0),
        ("2 s", 2.0),
        ("2s", 2.0),
        (" 2 s ", 2.0),
        ("2.5 sec", 2.5),
        ("500 ms", 0.5),
        ("30 min", 1800.0),
        ("2 h", 7200.0),
        ("1 hour", 3600.0),
        ("1.5 hours", 5400.0),
        ("1 d", 86_400.0),
        ("1 day", 86_400.0),
        ("7 days", 604_800.0),
    ],
)
def test_a_duration_is_one_number_and_one_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0 B", 0),
        ("512 B", 512),
        ("130 kB", 130_000),
        ("128 KiB", 131_072),
        ("1 MB", 1_000_000),
        ("64 MiB", 67_108_864),
        ("1.5 MiB", 1_572_864),
        ("2 GB", 2_000_000_000),
        ("2GiB", 2_147_483_648),
        ("0.0004 kB", 0),
    ],
)
def test_a_size_is_one_number_and_one_unit_in_whole_bytes(text, size):
    assert parse_size(text) == size
    assert isinstance(parse_size(text), int)


DURATION_FORM = (
    'a duration such as "2 s", with one of the units ms, s, sec, min, h, hour, hours, d, day, days'
)
SIZE_FORM = 'a size such as "2 MiB", with one of the units B, kB, KiB, MB, MiB, GB, GiB'


@pytest.mark.parametrize(
    ("value", "found", "expected"),
    [
        ("2", "'2'", 'a duration with a unit such as "2 s"'),
        (2, "2", 'a duration with a unit such as "2 s"'),
        (2.5, "2.5", 'a duration with a unit such as "2.5 s"'),
        (True, "true", DURATION_FORM),
        (-2, "-2", DURATION_FORM),
        ("-2 s", "'-2 s'", DURATION_FORM),
        ("2 m", "'2 m'", DURATION_FORM),
        ("2 S", "'2 S'", DURATION_FORM),
        ("1h30min", "'1h30min'", DURATION_FORM),
        ("1 h 30 min", "'1 h 30 min'", DURATION_FORM),
        ("٢ s", "'٢ s'", DURATION_FORM),  # digits of another script
        ("1e3 s", "'1e3 s'", DURATION_FORM),
        ("", "''", DURATION_FORM),
        ("2 s\n2 s", r"'2 s\n2 s'", DURATION_FORM),
        (float("nan"), "nan", DURATION_FORM),
        (float("inf"), "inf", DURATION_FORM),
        (10**20, "a huge number", DURATION_FORM),
        ("9" * 5000 + " s", "'" + "9" * 60 + "…'", DURATION_FORM),
    ],
)
def test_what_is_no_duration_is_refused_with_the_right_form(value, found, expected):
    with pytest.raises(UnitError) as refused:
        parse_duration(value)
    assert str(refused.value) == f"found {found}, expected {expected}"
    assert (refused.value.found, refused.value.expected) == (found, expected)


@pytest.mark.parametrize(
    ("value", "found", "expected"),
    [
        ("64", "'64'", 'a size with a unit such as "64 MiB"'),
        (64, "64", 'a size with a unit such as "64 MiB"'),
        ("64 MB/s", "'64 MB/s'", SIZE_FORM),
        ("64 KB", "'64 KB'", SIZE_FORM),
        ("64 mb", "'64 mb'", SIZE_FORM),
        ("64 s", "'64 s'", SIZE_FORM),
    ],
)
def test_what_is_no_size_is_refused_with_the_right_form(value, found, expected):
    with pytest.raises(UnitError) as refused:
        parse_size(value)
    assert str(refused.value) == f"found {found}, expected {expected}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.1, "100 ms"),
        (0.5, "500 ms"),
        (2, "2 s"),
        (100, "100 s"),
        (90 * 60, "90 min"),
        (4523.71, "1.26 h"),
        (86_400, "1 day"),
        (604_800, "7 days"),
        (-30, "-30 s"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1023 B"),
        (130_000, "130 kB"),
        (131_072, "128 KiB"),
        (67_108_864, "64 MiB"),
        (67_108_865, "64 MiB"),
        (1_300_001, "1.24 MiB"),
        (-1024, "-1 KiB"),
    ],
)
def test_sizes_read_as_people_say_them(size, text):
    assert format_size(size) == text


@given(st.floats(min_value=0.001, max_value=3e9))
def test_a_duration_that_was_shown_can_be_typed_in_again(seconds):
    """Two decimals of a number of at least 1 lose half a percent at most; below 1 ms, 5 µs."""
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.006)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_that_was_shown_can_be_typed_in_again(size):
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.006)


@given(st.integers(min_value=1, max_value=999), st.sampled_from(["ms", "s", "min", "h", "days"]))
def test_a_short_duration_is_shown_exactly(count, unit):
    seconds = parse_duration(f"{count} {unit}")
    assert parse_duration(format_duration(seconds)) == seconds


def outcome(parse, value):
    try:
        return parse(value)
    except UnitError as error:
        return error


@pytest.mark.parametrize("parse", [parse_duration, parse_size])
@given(value=st.text() | st.floats() | st.integers() | st.just(10**5000))
def test_any_value_is_a_quantity_or_refused_in_one_printable_line(parse, value):
    result = outcome(parse, value)
    assert str(result).isprintable() if isinstance(result, UnitError) else result >= 0
