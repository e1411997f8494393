"""Converters: what they make of a value, and that they never round or guess."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.converters import CONVERTERS, Unfit, amount, exactly

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CENTS = st.integers(min_value=-(10**15), max_value=10**15)


@pytest.mark.parametrize(
    ("converter", "value", "result"),
    [
        ("int", 3, 3),
        ("int", 3.0, 3),
        ("int", "12", 12),
        ("int", " -12\n", -12),
        ("int", "3.0", 3),
        ("int", "1e3", 1000),
        ("int", "007", 7),
        ("float", 3, 3.0),
        ("float", 2.5, 2.5),
        ("float", "2.50", 2.5),
        ("float", "1e3", 1000.0),
        ("float", ".5", 0.5),
        ("str", 3, "3"),
        ("str", 2.5, "2.5"),
        ("str", True, "true"),
        ("str", "007", "007"),
        ("str", "", ""),
        ("bool", True, True),
        ("bool", False, False),
        ("bool", 1, True),
        ("bool", 0, False),
        ("bool", "1", True),
        ("bool", "0", False),
        ("bool", "ON", True),
        ("bool", "off", False),
        ("bool", " Yes ", True),
        ("bool", "no", False),
        ("bool", "true", True),
        ("div100", 250, 2.5),
        ("div100", "1999", 19.99),
        ("div100", 300, 3),
        ("div100", 300.0, 3),
        ("div100", "29", 0.29),
        ("div100", 249.5, 2.495),
        ("div100", -5, -0.05),
        ("div100", 0, 0),
        ("div100", 100 * (2**63 - 1), 2**63 - 1),
    ],
)
def test_a_converter_makes_the_kind_that_it_is_called(converter, value, result):
    made = CONVERTERS[converter](value)
    assert made == result
    assert type(made) is type(result)


@pytest.mark.parametrize(
    ("converter", "value", "told"),
    [
        ("int", "2.5", "found a number with a fraction, expected a whole number"),
        ("int", 2.5, "found a number with a fraction, expected a whole number"),
        ("int", "1e-3", "found a number with a fraction, expected a whole number"),
        ("int", 2**63, "found a number of over 64 bits, expected a whole number"),
        ("int", "1e999", "found a number of over 64 bits, expected a whole number"),
        ("int", "twelve", "found a text that is no number, expected a whole number"),
        ("int", "", "found an empty text, expected a whole number"),
        ("int", True, "found true or false, expected a whole number"),
        ("int", "1_000", "found a text that is no number, expected a whole number"),
        ("int", "٣", "found a text that is no number, expected a whole number"),
        ("float", "2,50", "found a text that is no number, expected a number such as 2.50"),
        ("float", "$19", "found a text that is no number, expected a number such as 2.50"),
        ("float", "NaN", "found a text that is no number, expected"),
        ("float", "inf", "found a text that is no number, expected"),
        ("float", "1e999", "found a number that is too large, expected a smaller one"),
        ("float", 10**400, "found a number that is too large, expected a smaller one"),
        ("float", "9" * 41, "found a text that is no number, expected"),
        ("str", [1], "found an array, expected a text, a number, true or false"),
        ("str", {}, "found an empty object, expected"),
        ("bool", "maybe", "found another text, expected true or false, 1 or 0, on or off, yes or"),
        ("bool", 2, "found a number, expected true or false"),
        ("bool", "", "found an empty text, expected true or false"),
        ("bool", [], "found an empty array, expected true or false"),
        ("div100", "2,50", "found a text that is no number, expected a number of hundredths"),
        ("div100", True, "found true or false, expected a number of hundredths, such as cents"),
        ("div100", 10**400, "found a number that is too large, expected a smaller one"),
    ],
)
def test_what_would_have_to_be_rounded_or_guessed_is_refused(converter, value, told):
    with pytest.raises(Unfit) as refused:
        CONVERTERS[converter](value)
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    ("value", "result"),
    [("2.50", 2.5), ("3", 3), ("3.0", 3.0), (2.5, 2.5), (3, 3), (" 4 ", 4), ("1e2", 100.0)],
)
def test_an_amount_is_a_number_or_a_text_that_spells_one(value, result):
    made = amount(value)
    assert made == result
    assert type(made) is type(result)


@pytest.mark.parametrize("value", ["$19", "2,50", "2.50 EUR", "", "ON", True, None, [2], {}])
def test_what_is_no_number_is_no_amount(value):
    with pytest.raises(Unfit, match="with a point and without a currency's sign"):
        amount(value)


# Algebra


@given(cents=CENTS)
def test_cents_as_a_number_a_text_or_a_float_are_the_same_main_units_and_exact(cents):
    made = CONVERTERS["div100"](cents)
    assert Decimal(repr(made)) * 100 == cents
    assert made == CONVERTERS["div100"](str(cents)) == CONVERTERS["div100"](float(cents))


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62))
def test_a_number_goes_through_its_own_spelling_unchanged(value):
    spelled = json.dumps(value)
    assert CONVERTERS["str"](value) == spelled
    assert CONVERTERS["float"](spelled) == float(value)
    assert amount(spelled) == value
    assert exactly(value) == exactly(spelled)


@given(value=st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_whole_number_of_64_bits_is_never_changed(value):
    assert CONVERTERS["int"](value) == CONVERTERS["int"](str(value)) == value


@given(name=st.sampled_from(sorted(CONVERTERS)), value=JSON | st.integers() | st.text("0159.eE+-"))
def test_anything_is_converted_to_its_kind_or_refused_without_being_shown(name, value):
    kinds = {"int": int, "float": float, "str": str, "bool": bool, "div100": int | float}
    try:
        made = CONVERTERS[name](value)
    except Unfit as error:
        assert str(error).startswith("found ")  # noqa: PT017 - what is told is the point
        return
    assert isinstance(made, kinds[name])
    assert not isinstance(made, float) or math.isfinite(made)


@given(secret=st.text(min_size=8).filter(lambda text: text.strip() and exactly(text) is None))
def test_no_refusal_repeats_the_value(secret):
    for convert in (CONVERTERS["int"], CONVERTERS["float"], CONVERTERS["div100"], amount):
        with pytest.raises(Unfit) as refused:
            convert(f"visitor-4711{secret}")
        assert "4711" not in str(refused.value)
