"""What Google's own debug endpoint says of a body, beside what the agent says of it.

The endpoint's answers are documented in outline only, so everything in them may be missing or
unknown. It checks neither the api_secret nor the stream's id, so no answer says that they are right.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus, urlencode

from agent import jsontext, urequests
from agent.event import Stream
from agent.ga4.request import PROBE_PATH
from agent.ga4.violation import Code
from agent.jsontext import NotJson

HEADERS = {"Content-Type": "application/json"}
MESSAGES = "validationMessages"
BEHAVIOURS = ("validation_behavior", "validationBehavior")  # proto JSON reads both
ENFORCE = {BEHAVIOURS[0]: "ENFORCE_RECOMMENDATIONS"}
TEXT_MAX = 1000  # characters of a text that somebody else wrote
HIDDEN = "[hidden]"
SECRET_MIN = 6  # characters: a shorter one is no secret, and hiding it would tear words apart
_INDEXES = re.compile(r"\[[^\]]*\]")
_EVENT = re.compile(r"\bindex: \[([0-9]+)\]|^events\[([0-9]+)\]")


class CannotAsk(Exception):  # noqa: N818 - named after what happened
    """The endpoint could not be asked, or what answered was not it; why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A message about a body. Empty texts: nothing was said."""

    path: str
    code: str
    description: str

    @classmethod
    def of(cls, message: object) -> "Finding":
        """Read a message of ``validationMessages``, of whatever form it is."""
        if not isinstance(message, Mapping):
            return cls(path="", code="", description=_text(message))
        said = (message.get(key) for key in ("fieldPath", "validationCode", "description"))
        path, code, description = map(_text, said)
        return cls(path=path, code=code, description=description)

    @property
    def known(self) -> bool:
        """Whether the code is one that GA4's documentation or a recording has."""
        return self.code in {code.value for code in Code}

    def document(self) -> dict[str, str]:
        """The message as it stands in ``validationMessages``."""
        said = {
            "fieldPath": self.path,
            "description": self.description,
            "validationCode": self.code,
        }
        return {key: text for key, text in said.items() if text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Who says what. ``both``: a message of GA4's, and what the agent says of the same."""

    both: tuple[tuple[Finding, tuple[Finding, ...]], ...]
    only_ga4: tuple[Finding, ...]
    only_agent: tuple[Finding, ...]


def compared(theirs: Sequence[Finding], ours: Sequence[Finding]) -> Comparison:
    """Put together what means the same: GA4 names places coarsely, or not at all."""
    pairs = [(each, tuple(own for own in ours if _alike(each, own))) for each in theirs]
    shared = {own for _, alike in pairs for own in alike}
    return Comparison(
        both=tuple(pair for pair in pairs if pair[1]),
        only_ga4=tuple(each for each, alike in pairs if not alike),
        only_agent=tuple(own for own in ours if own not in shared),
    )


def _alike(theirs: Finding, ours: Finding) -> bool:
    events = (_event(theirs), _event(ours))
    if None not in events and events[0] != events[1]:
        return False
    their_place, our_place = _place(theirs.path), _place(ours.path)
    if theirs.code != ours.code:  # of the same place, by another name
        return bool(their_place) and their_place == our_place
    return _within(our_place, their_place) or _within(their_place, our_place)


def _event(finding: Finding) -> str | None:
    """The index of the event that is meant, if it is said."""
    found = _EVENT.search(finding.path) or _EVENT.search(finding.description)
    return (found[1] or found[2]) if found else None


def _place(path: str) -> str:
    return _INDEXES.sub("", path)


def _within(inner: str, outer: str) -> bool:
    return not outer or f"{inner}.".startswith(f"{outer}.")


def enforced(text: bytes) -> bytes:
    """The body with ENFORCE_RECOMMENDATIONS put in, without which GA4 checks little.

    Else it stays as it was written, with keys that stand twice. Raises NotJson.
    """
    body = jsontext.loads(text)
    text = text.decode("utf-8-sig").encode()
    if not isinstance(body, dict):
        return text
    if any(key in body for key in BEHAVIOURS):
        rest = {key: value for key, value in body.items() if key not in BEHAVIOURS}
        return jsontext.dumps(ENFORCE | rest)
    _, brace, rest_of_text = text.partition(b"{")
    comma = b"," if body else b""
    return brace + jsontext.dumps(ENFORCE)[1:-1] + comma + rest_of_text


def ask(client: urequests.Client, stream: Stream, body: bytes) -> tuple[Finding, ...]:
    """What the debug endpoint of the stream says of a body. Raises CannotAsk.

    The stream has a secret: the endpoint wants one, though it does not look at it.
    """
    if stream.secret is None:
        raise CannotAsk(stream.lacks)
    secret = stream.secret.reveal()
    messages = _answered(client, stream, secret, body)
    if len(secret) >= SECRET_MIN:
        messages = [_without(secret, message) for message in messages]
    return tuple(map(Finding.of, messages))


def _answered(
    client: urequests.Client, stream: Stream, secret: str, body: bytes
) -> Sequence[object]:
    id_name = "firebase_app_id" if stream.is_app else "measurement_id"
    stream_id = stream.firebase_app_id or stream.measurement_id or ""
    query = urlencode({id_name: stream_id, "api_secret": secret}, safe=":")
    url = f"{stream.endpoint}{PROBE_PATH}?{query}"
    try:
        with client.post(url, data=body, headers=HEADERS) as response:
            return _messages(response.status_code, response.content)
    except OSError as error:  # of the network: it names no URL
        clock = isinstance(error, urequests.TlsError) and error.not_yet_valid
        hint = "; this device's clock seems to be wrong" if clock else ""
        raise CannotAsk(f"{error.strerror or error}{hint}") from None


def _messages(status: int, content: bytes) -> Sequence[object]:
    """The messages in an answer. GA4 gives them with 200, whatever it found."""
    try:
        document = jsontext.loads(content)
    except NotJson:
        document = None
    if isinstance(document, dict) and isinstance(document.get(MESSAGES), list):
        return list(document[MESSAGES])
    if status == HTTPStatus.OK and document in ({}, {MESSAGES: None}):
        return ()  # proto JSON leaves out a list that is empty
    raise CannotAsk(_why(status, content))


def _why(status: int, content: bytes) -> str:
    """What else than the endpoint's answer came."""
    if status // 100 == 3 or status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:  # noqa: PLR2004 - 3xx
        return (
            f"found {status}, expected 200: somebody in between leads elsewhere, such as the login "
            "page of a network; log in to it first"
        )
    if status == HTTPStatus.NOT_FOUND:
        return (
            "found 404, expected 200: there is no debug endpoint, as on an own server container; "
            "ask Google's with --endpoint https://www.google-analytics.com"
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status // 100 == 5:  # noqa: PLR2004 - 5xx
        return f"found {status}, expected 200; try again later"
    if status != HTTPStatus.OK:
        return f"found {status}, expected 200: this is not GA4's debug endpoint"
    if content.lstrip()[:1] == b"<":
        return "found a web page, expected JSON: perhaps the login page of a network"
    return f"found another answer, expected JSON with {MESSAGES}: this is not GA4"


def _text(value: object) -> str:
    """What somebody wrote where a text was expected; nothing for nothing."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}\N{HORIZONTAL ELLIPSIS}"


def _without(secret: str, value: Any) -> Any:
    """The value without the secret, which an answer might repeat."""
    if isinstance(value, str):
        return value.replace(secret, HIDDEN).replace(quote_plus(secret), HIDDEN)
    if isinstance(value, Mapping):
        return {_without(secret, key): _without(secret, inner) for key, inner in value.items()}
    return [_without(secret, inner) for inner in value] if isinstance(value, list) else value
