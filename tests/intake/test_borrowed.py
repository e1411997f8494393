"""Ids that others made: out of Google's cookies, and out of keys."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ga4.rules.fields import CLIENT_ID
from agent.intake.borrowed import (
    NOBODY,
    SPAN,
    Borrowed,
    client_id_of,
    from_cookies,
    keyed_id,
    salt_problem,
    session_of,
)  # fmt: skip
from agent.secret import Secret

CASES = json.loads((Path(__file__).parent / "cookies.json").read_text())
GA = "GA1.1.1162820436.1749482504"
OTHER_GA = "GA1.2.286403989.1366364567"
GS1 = "GS1.1.1689053763.1.1.1689054101.0.0.0"
GS2 = "GS2.1.s1764888982$o50$g1$t1764890260$j59$l0$h681028196"
SALT = Secret("0123456789abcdef")


# -- one cookie -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["_ga"], ids=lambda case: case["cookie"])
def test_the_client_id_is_the_last_two_numbers(case):
    assert client_id_of(case["cookie"]) == case["client_id"]


@pytest.mark.parametrize("case", CASES["_ga_<container>"], ids=lambda case: case["cookie"])
def test_the_session_id_is_found_in_both_layouts(case):
    expected = case["session_id"]
    assert session_of(case["cookie"]) == (None if expected is None else int(expected))


@pytest.mark.parametrize(
    "text",
    [
        "", "GA1", "GA1.1", "GA1.1.123", "GA1.123.456", "GA1.1.123.", "GA1.1..456",
        "GA1.1.amp-abcdef", "GA1.1.123.456.789", "GA1.1.12a.456", "GA1.1.\u0661\u0662.\u0663", "123.456",
        "XGA1.1.123.456", "GA2.1.123.456", GS1, "GA1.1." + "1" * 5000 + ".2", "GA1.1.1.2\nGA1.1.3.4",
    ],
)  # fmt: skip
def test_what_has_another_layout_gives_no_client_id(text):
    assert client_id_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        GA, "GS1", "GS1.1", "GS1.1.", "GS1.1.x", "GS1.1.0.1", "GS1.1.1689053763x", "GS3.1.s1",
        "GS1.1.s1764888982", "GS2.1.1764888982", "GS2.1.", "GS2.1.o50$t1764890260", "GS2.1.s0",
        "GS2.1.s-5", "GS2.1.sos$s", "GS2.1.xs12", "GS2.1.s" + "9" * 5000, "GS1.1." + "9" * 5000,
        "GS2.1.s\u0661\u0662",
    ],
)  # fmt: skip
def test_what_has_another_layout_gives_no_session_id(text):
    assert session_of(text) is None


def test_the_parts_of_the_newer_layout_may_stand_in_any_order():
    assert session_of("GS2.1.o50$g1$j59$l0$h681028196$d5$t1764890260$s1764888982") == 1764888982
    assert session_of("GS2.1.s1764888982") == 1764888982


def test_a_cookie_whose_separators_were_escaped_is_read_too():
    assert session_of(GS2.replace("$", "%24")) == 1764888982


@given(first=st.integers(0, 10**20 - 1), second=st.integers(0, 10**20 - 1), level=st.from_regex(r"[0-9]+(-[0-9]+)?", fullmatch=True).filter(str.isascii))  # fmt: skip
def test_any_level_is_stepped_over(first, second, level):
    assert client_id_of(f"GA1.{level}.{first}.{second}") == f"{first}.{second}"


# -- a header ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "Cookie: ", "cookie:"])
def test_client_and_session_are_found_among_other_cookies(prefix):
    header = f"{prefix}consent=yes; _ga={GA}; _gid=GA1.2.5.6; _ga_ABCDE12345={GS2}; x"
    found = Borrowed("1162820436.1749482504", 1764888982)
    assert from_cookies(header, "G-ABCDE12345") == found


def test_the_session_of_another_stream_is_none_of_this_one():
    header = f"_ga={GA}; _ga_OTHER00001={GS1}"
    assert from_cookies(header, "G-ABCDE12345") == Borrowed("1162820436.1749482504", None)
    assert from_cookies(header, "G-OTHER00001").session_id == 1689053763


def test_an_app_stream_has_its_sessions_in_no_cookie():
    assert from_cookies(f"_ga={GA}; _ga_={GS1}", None) == Borrowed("1162820436.1749482504", None)


def test_a_session_without_a_client_is_said_as_it_is():
    assert from_cookies(f"_ga_ABCDE12345={GS1}", "G-ABCDE12345") == Borrowed(None, 1689053763)


@pytest.mark.parametrize("odd", ['a=b"c', "a[]=1", "=", "ü=ö", "a={json: 1, b: 2}", "a b c", "\0"])
def test_an_odd_cookie_does_not_hide_the_others(odd):
    header = f'{odd}; _ga="{GA}" ;{odd};_ga_ABCDE12345={GS1};'
    found = Borrowed("1162820436.1749482504", 1689053763)
    assert from_cookies(header, "G-ABCDE12345") == found


def test_of_several_with_one_name_the_first_that_can_be_read_counts():
    header = f"_ga=broken; _ga={OTHER_GA}; _ga={GA}"
    assert from_cookies(header, None).client_id == "286403989.1366364567"


@pytest.mark.parametrize("header", ["", ";", "_ga", "_ga=", f"ga={GA}", f"_GA={GA}", f"x_ga={GA}"])
def test_where_there_is_none_there_is_nobody(header):
    assert from_cookies(header, "G-ABCDE12345") == NOBODY


PIECE = st.one_of(
    st.text(),
    st.sampled_from(["_ga=", "_ga_X=", "; ", "GA1.", "GS1.", "GS2.", "1.", "$", "s", "9" * 5000]),
)


@given(header=st.lists(PIECE, max_size=12).map("".join), measurement_id=st.none() | st.text())
def test_no_header_can_raise_and_what_comes_out_is_what_ga4_takes(header, measurement_id):
    found = from_cookies(header, measurement_id)
    assert found.client_id is None or CLIENT_ID.fullmatch(found.client_id)
    assert found.session_id is None or 0 < found.session_id < 2**63


# -- keys -------------------------------------------------------------------------------------


def test_a_keyed_id_is_the_same_for_ever():
    """Whoever changes how it is made turns every card's holder into a new user."""
    assert keyed_id("4711", SALT) == "747249824.49053020"  # HMAC-SHA256 by openssl


@given(key=st.text(alphabet=st.characters(codec=None)))
def test_a_keyed_id_is_two_positive_numbers(key):
    made = keyed_id(key, SALT)
    assert re.fullmatch(r"[1-9][0-9]{0,9}\.[1-9][0-9]{0,9}", made)
    assert made == keyed_id(key, SALT)


def test_another_key_or_another_salt_is_another_id():
    ids = {keyed_id(str(card), SALT) for card in range(20_000)}
    assert len(ids) == 20_000
    assert keyed_id("4711", Secret("fedcba9876543210")) != keyed_id("4711", SALT)


def test_keyed_ids_are_spread_over_both_numbers():
    pairs = [tuple(map(int, keyed_id(str(card), SALT).split("."))) for card in range(4000)]
    for side in zip(*pairs, strict=True):
        quarters = [number * 4 // (SPAN + 1) for number in side]
        assert all(850 < quarters.count(each) < 1150 for each in range(4))


def test_a_short_salt_is_refused_without_being_repeated():
    problem = salt_problem(Secret("short-marker-15"))
    assert "found a salt of 15 characters, expected at least 16" in problem
    assert "marker" not in problem
    assert salt_problem(SALT) is None
