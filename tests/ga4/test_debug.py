"""The debug endpoint's answer to a text: every violation, or why it cannot be read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import jsontext
from agent.ga4.debug import answer, told
from agent.ga4.policy import Policy

NOW = 1_800_000_000_000_000
CANARY = "canary-7731"


def messages(text):
    found = answer(text, stream="web", now_us=NOW, policy=Policy())
    return [(m["fieldPath"], m["description"]) for m in found["validationMessages"]]


def test_a_valid_body_gives_no_message():
    assert messages(b'{"client_id":"1.2","events":[{"name":"tap"}]}') == []


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (b'{"a":NaN}', "found the number NaN at line 1 column 6, expected a finite one"),
        (b'{\n"NaN":\n -Infinity}', "found the number -Infinity at line 3 column 2, "),
        (b'["1e999","\\"",1e308, 1E999]', "found a number that is too large at line 1 column 22, "),
        (b"\xef\xbb\xbf[NaN]", "found the number NaN at line 1 column 2, "),
    ],
)
def test_a_number_that_is_not_finite_is_named_with_its_place(text, description):
    """JSON has none, so the whole text is refused; somewhere in it all else may be right."""
    [(path, said)] = messages(text)
    assert path == ""
    assert said.startswith(description)
    assert said.endswith("expected a finite one")


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100, b"9" * 5000, b'"\\ud800"', b"[1,]"])
def test_what_is_wrong_otherwise_is_said_as_it_is(text):
    with pytest.raises(jsontext.NotJson) as caught:
        jsontext.loads(text)
    assert told(caught.value, text) == str(caught.value)


@given(
    st.recursive(
        st.none() | st.text() | st.floats() | st.sampled_from(["NaN", "\\", '"', "1e999"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from([None, 1]),
)
def test_where_it_is_said_to_be_there_it_is(value, indent):
    text = json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="replace")
    try:
        jsontext.loads(text)
    except jsontext.NotJson as error:
        if "finite" not in str(error):
            return
        said = told(error, text)
        line, column = (int(word.rstrip(",")) for word in said.split() if word[0].isdigit())
        rest = text.decode().split("\n")[line - 1][column - 1 :]
        assert rest.startswith(("NaN", "Infinity", "-Infinity"))
