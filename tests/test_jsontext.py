"""JSON that may travel: what is read can be written out again, by anybody."""

import json
import math
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import jsontext
from agent.jsontext import MAX_DEPTH, NotJson

CANARY = "canary-7731"

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**50), 10**50),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_was_written_is_read_as_it_was(value):
    text = jsontext.dumps(value)
    assert jsontext.loads(text) == value
    assert jsontext.dumps(jsontext.loads(text)) == text


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_anything_is_read_or_refused(data):
    try:
        value = jsontext.loads(data)
    except NotJson as error:
        assert str(error).startswith("found")  # noqa: PT017 - either of two ends is right
    else:
        json.loads(jsontext.dumps(value))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_have_are_refused(constant):
    with pytest.raises(NotJson, match=f"^found the number {constant}, expected a finite one$"):
        jsontext.loads(f'{{"x":[{constant}]}}'.encode())


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400 + ".0"])
def test_numbers_beyond_a_float_are_refused(number):
    with pytest.raises(NotJson, match="too large"):
        jsontext.loads(number.encode())


def test_an_integer_with_thousands_of_digits_is_refused_and_one_with_hundreds_is_not():
    assert jsontext.loads(b"9" * 400) == 10**400 - 1
    with pytest.raises(NotJson, match="too many digits"):
        jsontext.loads(b"9" * 5000)


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\udc00x"', r'{"\ud800":1}', r'[["\udfff"]]'])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(text):
    with pytest.raises(NotJson, match="surrogate"):
        jsontext.loads(text.encode())


def test_a_whole_surrogate_pair_is_one_character():
    assert jsontext.loads(rb'"\ud83d\ude00"') == "\U0001f600"


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH - 1])
def test_depth_up_to_the_limit_is_read(depth):
    jsontext.loads(b"[" * depth + b"1" + b"]" * depth)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 900, 1100, 200_000])
def test_depth_beyond_the_limit_is_refused_however_deep(depth):
    with pytest.raises(NotJson, match=f"deeper than {MAX_DEPTH} levels"):
        jsontext.loads(b"[" * depth + b"1" + b"]" * depth)
    with pytest.raises(NotJson, match=f"deeper than {MAX_DEPTH} levels"):
        jsontext.loads(b'{"a":' * depth + b"1" + b"}" * depth)


def test_the_limit_of_depth_is_the_readers_choice():
    assert jsontext.loads(b"[[1]]", max_depth=3) == [[1]]
    with pytest.raises(NotJson, match="deeper than 2 levels"):
        jsontext.loads(b"[[1]]", max_depth=2)


def test_many_brothers_are_not_depth():
    assert len(jsontext.loads(b"[" + b"[]," * 9999 + b"[]]")) == 10_000


def test_a_byte_order_mark_is_read_over():
    assert jsontext.loads(b"\xef\xbb\xbf1") == 1


@pytest.mark.parametrize("data", [b"\xff", b'"\xed\xa0\x80"', "\u2713".encode("utf-16")])
def test_what_is_no_utf_8_is_refused(data):
    with pytest.raises(NotJson, match="no UTF-8"):
        jsontext.loads(data)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"client_id":"{CANARY}"',
        f'{{"client_id":"{CANARY}" 1}}',
        f'"{CANARY}" x',
        f"{CANARY}",
        f'["{CANARY}",NaN]',
        f'["{CANARY}","\\ud800"]',
        f'["{CANARY}",{"9" * 5000}]',
        f'["{CANARY}",{"[" * 99}{"]" * 99}]',
    ],
)
def test_what_is_wrong_is_said_without_the_document(text):
    with pytest.raises(NotJson) as caught:
        jsontext.loads(text.encode())
    error = caught.value
    assert "7731" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or isinstance(error.__context__, NotJson | None)


def test_where_the_text_is_wrong_is_said():
    with pytest.raises(NotJson, match="at line 2 column 3"):
        jsontext.loads(b'{"a":1,\n  x}')


def test_what_is_written_is_compact_utf_8():
    assert jsontext.dumps({"a": [1, "ü"], "b": None}) == '{"a":[1,"ü"],"b":null}'.encode()


def test_read_only_views_are_written_like_what_they_show():
    view = MappingProxyType({"a": MappingProxyType({"b": 1})})
    assert jsontext.dumps(view) == b'{"a":{"b":1}}'
    assert jsontext.canonical(view) == '{"a":{"b":1}}'


def test_what_is_no_json_is_not_written():
    with pytest.raises(TypeError, match="cannot write JSON: found set"):
        jsontext.dumps({"a": {1}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsontext.dumps(math.nan)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_the_canonical_text_does_not_depend_on_the_order_of_keys(value):
    backwards = dict(reversed(value.items()))
    assert jsontext.canonical(value) == jsontext.canonical(backwards)


def test_the_canonical_text_tells_kinds_of_numbers_apart():
    texts = {jsontext.canonical({"x": x}) for x in (1, 1.0, True, "1", None, [1])}
    assert len(texts) == 6


def test_frozen_is_read_only_and_does_not_follow_its_source():
    source = {"a": 1}
    view = jsontext.frozen(source)
    source["a"] = 2
    assert view == {"a": 1}
    with pytest.raises(TypeError):
        view["a"] = 3
    assert jsontext.frozen(view) is view
