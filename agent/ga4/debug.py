"""What Google's debug endpoint would say of the text of a request body. Pure."""

from typing import Any

from agent import jsontext
from agent.ga4.duplicates import duplicates
from agent.ga4.policy import Policy, StreamKind
from agent.ga4.validate import LENIENT, MOST, validate
from agent.ga4.violation import Code, Rule, Violation


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
            Violation(place=(), rule=Rule.KIND, code=Code.VALUE_INVALID, description=str(error)),
        )
    return {"validationMessages": [violation.document() for violation in found]}
