"""What must not reach GA4: personal data in values, and the mark of a debugging session.

E-mail addresses and payment card numbers are recognised by their form. A value that holds one is
taken out whole; only in an address of a page the found part alone is replaced, as GA4's own data
redaction does. `docs/ga4-rules.md` says what is looked at and what is not.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.event import Event, InvalidEvent
from agent.ga4.checks.values import is_array
from agent.ga4.identifiers import is_identifier
from agent.jsontext import frozen

REDACTED = "(redacted)"
PERSONAL_ID = (
    "found what looks like a payment card number or an e-mail address, expected an id that says "
    "nothing of a person, for Google's terms forbid it; hand it in as client_key and set "
    "id_salt_file in [device], and the agent makes an id of it; if it is neither, set keep_pii = "
    "true in [stream.NAME]"
)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
PAGES = frozenset(("page_location", "page_referrer"))

# Every part is bounded, so that no text takes long. @ may be encoded once or more; a file name
# like logo@2x.png is none.
EMAIL = re.compile(
    r"[\w.+%'-]{1,64}(?:@|%(?:25){0,3}40)(?!\dx\.)"
    r"(?:[\w-]{1,63}(?:\.|%2E)){1,8}(?:xn--[\w-]{2,59}|[^\W\d_]{2,24})",
    re.IGNORECASE,
)
# Digits, perhaps in groups of 3 or more; before them no letter or digit but those of a %20.
GROUP = r"[0-9]{3,}+"
GAP = r"(?:[\s+_./\N{HYPHEN}-\N{EM DASH}-]|%20){1,3}"
RUN = re.compile(
    rf"(?:(?<![0-9A-Za-z%])|(?<=%[0-9A-Fa-f]{{2}})){GROUP}(?:{GAP}{GROUP})*(?![0-9A-Za-z])"
)
GROUPS = re.compile(rf"(?:%20)*({GROUP})")
# With one of these between them, groups of any size may be a card's. Decimals, dates, paths and
# ids of several parts are written with the others: there only groups as on a card count.
USUAL_GAPS = frozenset((" ", "\N{NO-BREAK SPACE}", "+", "-", "%20"))
AS_PRINTED = frozenset(((4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4)))
# What the networks issue: first digits, numbers of digits. Thirteen digits are old Visa cards.
NETWORKS = (
    (re.compile("4"), (13, 16, 19)),
    (re.compile("5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("6011|64[4-9]|65"), (16, 19)),
    (re.compile("3(?:0[0-5]|[689])"), (14,)),
    (re.compile("35(?:2[89]|[3-8])"), (16,)),
    (re.compile("62"), (16, 17, 18, 19)),
    (re.compile("50[0-9]|5[6-8]|6304|67[0-9]"), (16, 18, 19)),
    (re.compile("220[0-4]"), (16,)),
)
SHORTEST, LONGEST = 13, 19  # digits
GROUPS_MAX = LONGEST // 3
ARTICLE = 13  # digits of the EAN on goods: those from Germany, Japan and others begin with 4, too
NUMBERS = range(10 ** (SHORTEST - 1), 10**LONGEST)
# Codes of goods have 13 or 14 digits and a check digit of their own; one in ten passes Luhn too.
OF_GOODS = re.compile(r"ean|gtin|upc|isbn|barcode|sku", re.IGNORECASE)
OF_NAMES = (15, 16)  # the digits of nearly all cards of today
# One in forty random numbers of 16 digits looks like a card: here that would cost a sale, or
# part its events. In groups it is a card here, too.
PLAIN_NUMBERS = frozenset(
    ("transaction_id", "event_id", "session_id", "timestamp_micros", "engagement_time_msec")
)


def without_pii(event: Event) -> tuple[Event, int]:
    """The event without values that look like e-mail addresses or card numbers, and how many.

    The same event if there are none. Raises InvalidEvent for a client_id that looks like one:
    without it the event would be another sender's.
    """
    if _is_personal("client_id", event.sender.client_id):
        raise InvalidEvent("client_id", PERSONAL_ID, "VALUE_INVALID")
    params, of_params = _cleaned(event.params)
    properties, of_properties = _kept_properties(event.sender.user_properties)
    user_id = event.sender.user_id
    named = _is_personal("user_id", user_id)
    number = of_params + of_properties + named
    if not number:
        return event, 0
    sender = event.sender
    if of_properties or named:
        sender = replace(
            sender,
            user_properties=frozen(properties),
            user_id=None if named else user_id,
        )
    return replace(event, params=frozen(params), sender=sender), number


def without_debug_mode(event: Event) -> tuple[Event, int]:
    """The event without the param that shows it in DebugView alone, and 1 if it had it."""
    if "debug_mode" not in event.params:
        return event, 0
    params = {name: value for name, value in event.params.items() if name != "debug_mode"}
    return replace(event, params=frozen(params)), 1


# -- params, items, user properties -----------------------------------------------------------


def _cleaned(params: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Params of an event or an item."""
    kept, number = dict(params), 0
    for name, value in params.items():
        if name == "items" and is_array(value):
            kept[name], found = _cleaned_items(value)
            number += found
        elif _is_personal(name, value):
            number += 1
            if _is_address(name, value):
                kept[name] = _redacted(name, value)
            else:
                del kept[name]
    return kept, number


def _cleaned_items(items: Any) -> tuple[Any, int]:
    cleaned = [_cleaned(item) if isinstance(item, Mapping) else (item, 0) for item in items]
    number = sum(found for _, found in cleaned)
    return ([item for item, _ in cleaned] if number else items), number


def _kept_properties(properties: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    kept = {name: said for name, said in properties.items() if not _is_personal(name, _of(said))}
    return kept, len(properties) - len(kept)


def _of(said: Any) -> Any:
    """The value of a user property, without its time."""
    return said.get("value") if isinstance(said, Mapping) else said


def _is_address(name: str, value: Any) -> bool:
    """Whether it is a page's, and means something without a part; a name does not."""
    if not isinstance(value, str) or is_identifier(name):
        return False
    return name in PAGES or URL.match(value) is not None


def _redacted(name: str, text: str) -> str:
    text = EMAIL.sub(REDACTED, text)
    # From the end, so that the places before stay where they are.
    for start, end in reversed(list(_cards(name, text))):
        text = text[:start] + REDACTED + text[end:]
    return text


# -- what a value looks like ------------------------------------------------------------------


def _is_personal(name: str, value: Any) -> bool:
    """Whether it, or anything in it, looks personal. Nothing nested is too deep."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif is_array(value):
            waiting.extend(value)
        elif isinstance(value, str):
            if _has_email(value) or next(_cards(name, value), None):
                return True
        elif _is_card_number(name, value):
            return True
    return False


def _has_email(text: str) -> bool:
    return ("@" in text or "40" in text) and EMAIL.search(text) is not None


def _is_card_number(name: str, value: Any) -> bool:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return isinstance(value, int) and value in NUMBERS and _is_card(name, str(value))


def _cards(name: str, text: str) -> Iterator[tuple[int, int]]:
    """Where card numbers stand; they do not overlap."""
    for run in RUN.finditer(text):
        groups = [found.span(1) for found in GROUPS.finditer(text, *run.span())]
        free = 0
        for index, (start, _) in enumerate(groups):
            following = groups[index : index + GROUPS_MAX]
            if start >= free and (end := _end_of_card(name, text, following)):
                yield start, end
                free = end


def _end_of_card(name: str, text: str, groups: Sequence[tuple[int, int]]) -> int | None:
    """Where the longest card number ends that starts with the first group."""
    digits, found = "", None
    sizes: tuple[int, ...] = ()
    printed_only = is_identifier(name)  # others are made of parts: a machine, and when it sold
    last = groups[0][0]
    for start, end in groups:
        printed_only |= bool(digits) and text[last:start] not in USUAL_GAPS
        digits, sizes, last = digits + text[start:end], (*sizes, end - start), end
        if len(digits) > LONGEST:
            break
        grouped = len(sizes) > 1
        if grouped and printed_only and sizes not in AS_PRINTED:
            continue
        if _is_card(name, digits, grouped=grouped):
            found = end
    return found


def _is_card(name: str, digits: str, *, grouped: bool = False) -> bool:
    if name in PLAIN_NUMBERS and not grouped:
        return False
    if len(digits) not in OF_NAMES and (is_identifier(name) or OF_GOODS.search(name)):
        return False
    return _is_issued(digits) and _luhn(digits) and not _is_article(digits)


def _is_article(digits: str) -> bool:
    """Whether it has the right check digit of an EAN: nine in ten old cards have not."""
    odd, even = (sum(map(int, digits[start::2])) for start in (0, 1))
    return len(digits) == ARTICLE and (odd + 3 * even) % 10 == 0


def _is_issued(digits: str) -> bool:
    return any(len(digits) in lengths and form.match(digits) for form, lengths in NETWORKS)


def _luhn(digits: str) -> bool:
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(n // 10 + n % 10 for n in doubled)) % 10 == 0
