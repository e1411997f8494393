"""Every case of the protocol notes comes out as the documentation says.

`cases.json` is a copy of the shared file. Where the documentation does not say, DECIDED does, with
the reason; `docs/ga4-rules.md` has the same for the analyst.
"""

import json
from pathlib import Path

import pytest

from agent.ga4.validate import validate

CASES = json.loads((Path(__file__).parent / "cases.json").read_text())["cases"]
NOW_US = 1_800_000_000_000_000

# Code, or None for valid; and why. Nothing else is undocumented.
DECIDED = {
    "ts-future-20min": (
        "VALUE_INVALID",
        "the server named 15 minutes in 2022, and REF says that times are for the past",
    ),
    "ec-generate_lead-bare": (
        None,
        "REF asks for the currency only where there is a value; only Event Builder wants both",
    ),
    "q-missing-secret": (None, "the query is the stream's, not the body's; VAL does not check it"),
    "q-missing-measurement-id": (
        None,
        "the query is the stream's, not the body's; VAL does not check it",
    ),
    "id-app-bad-firebase-app-id": (
        None,
        "the query is the stream's, not the body's; VAL does not check it",
    ),
    "ev-object-not-array": (
        None,
        "ga4mp sends it; the agent takes the one event and sends a list (policy: single_event)",
    ),
    "ev-autoweb-click": (None, "NAM is about GA's own pages; REF does not reserve the name"),
    "ev-autoweb-scroll": (None, "NAM is about GA's own pages; REF does not reserve the name"),
    "ts-string": (
        None,
        "proto JSON writes 64-bit integers as texts, and it is exact (policy: numeric_texts)",
    ),
    "ev-prefix-google_tap": (
        None,
        "REF has prefixes for params and properties only (policy: event_prefixes)",
    ),
    "ec-custom-value-no-currency": (
        None,
        "EVT is silent, and a sensor's value is no money (policy: value_and_currency)",
    ),
    "tl-consent-lower": (
        "VALUE_INVALID",
        "a consent that GA4 does not read is replaced by an older one: nobody would know",
    ),
    "id-web-uuid-client": (
        None,
        "REF only recommends numbers; Google's Chrome guide allows any text (policy: client_ids)",
    ),
    "pa-session-uuid": (
        "VALUE_INVALID",
        "REF asks for a positive number or the cookie (policy: session_ids)",
    ),
    "pa-bool": (None, "Google's own Dart package sends booleans, and debug_mode may be true"),
    "up-extra-key": (
        "VALUE_INVALID",
        "UP and Event Builder know value and timestamp_micros only; the rest would vanish",
    ),
}


def by_id(case):
    return case["id"]


def at_now(value):
    """The payload with times that are relative to now put in."""
    if isinstance(value, dict) and "$rel_s" in value:
        micros = NOW_US + value["$rel_s"] * 1_000_000
        return str(micros) if value.get("as") == "string" else micros
    if isinstance(value, dict):
        return {key: at_now(inner) for key, inner in value.items()}
    return [at_now(inner) for inner in value] if isinstance(value, list) else value


def codes(case):
    found = validate(at_now(case["payload"]), stream=case["stream"], now_us=NOW_US)
    return {violation.code.value for violation in found}


DOCUMENTED = [case for case in CASES if case["docs_strict"] != "undocumented"]
UNDOCUMENTED = [case for case in CASES if case["docs_strict"] == "undocumented"]


def test_the_file_is_all_there():
    assert len(CASES) == 96
    assert (len(DOCUMENTED), len(UNDOCUMENTED)) == (80, 16)


@pytest.mark.parametrize("case", DOCUMENTED, ids=by_id)
def test_a_documented_case_comes_out_as_the_documentation_says(case):
    found = codes(case)
    assert bool(found) == (case["docs_strict"] == "invalid")
    if found and case["docs_code"] is not None:
        assert found == {case["docs_code"]}


@pytest.mark.parametrize("case", UNDOCUMENTED, ids=by_id)
def test_an_undocumented_case_comes_out_as_decided(case):
    code, reason = DECIDED[case["id"]]
    assert reason
    assert codes(case) == ({code} if code else set())


def test_each_undocumented_case_has_a_decision_and_no_other_has():
    assert {case["id"] for case in UNDOCUMENTED} == set(DECIDED)


@pytest.mark.parametrize(
    "case",
    [case for case in DOCUMENTED if not case["id"].startswith(("id-", "ev-app-only"))],
    ids=by_id,
)
def test_what_no_stream_rule_decides_comes_out_alike_on_an_app_stream(case):
    payload = dict(case["payload"], app_instance_id="0123456789abcdef0123456789abcdef")
    assert codes(dict(case, stream="app", payload=payload)) == codes(case)
