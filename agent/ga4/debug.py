"""What Google's debug endpoint would say of the text of a request body. Pure."""

import math
import re
from typing import Any

from agent import jsontext
from agent.ga4.duplicates import duplicates
from agent.ga4.policy import Policy, StreamKind
from agent.ga4.validate import LENIENT, MOST, validate
from agent.ga4.violation import Code, Rule, Violation

# A JSON text's strings, so that nothing in them counts; constants that JSON does not have; numbers.
TOKEN = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"|(?P<constant>NaN|-?Infinity)|-?[0-9][-+.0-9eE]*', re.DOTALL
)


def violations_in(
    text: bytes, *, stream: StreamKind, now_us: int, policy: Policy = LENIENT
) -> tuple[Violation, ...]:
    """All that a text breaks, keys that stand twice in an object among it.

    Raises jsontext.NotJson for one that cannot be read.
    """
    body = jsontext.loads(text)
    found = validate(body, stream=stream, now_us=now_us, policy=policy, size=len(text))
    return (*duplicates(text), *found)[:MOST]


def answer(text: bytes, *, stream: StreamKind, now_us: int, policy: Policy) -> dict[str, Any]:
    """The endpoint's JSON; what cannot be read is a message like any other."""
    try:
        found = violations_in(text, stream=stream, now_us=now_us, policy=policy)
    except jsontext.NotJson as error:
        found = (
            Violation(
                place=(), rule=Rule.KIND, code=Code.VALUE_INVALID, description=told(error, text)
            ),
        )
    return {"validationMessages": [violation.document() for violation in found]}


def told(error: jsontext.NotJson, text: bytes) -> str:
    """What makes a text no JSON; of a number that is not finite also where it stands.

    There is one in the middle of an otherwise good request, which is refused as a whole for it.
    """
    found, comma, expected = str(error).partition(", expected a finite one")
    place = _endless(text) if comma else ""
    return f"{found}{place}{comma}{expected}"


def _endless(text: bytes) -> str:
    """Where the first number stands that is not finite, as a JSON decoder says it."""
    said = text.decode("utf-8-sig", errors="replace")
    for token in TOKEN.finditer(said):
        if token["constant"] or _overflows(token[0]):
            start = token.start()
            line, column = said.count("\n", 0, start) + 1, start - said.rfind("\n", 0, start)
            return f" at line {line} column {column}"
    return ""


def _overflows(token: str) -> bool:
    if token.startswith('"') or token.lstrip("-").isdigit():
        return False
    try:
        return not math.isfinite(float(token))
    except ValueError:
        return False
