"""Payloads for the agent, each made of a seed and its number alone.

Valid ones, damaged ones (valid, but for one to three mistakes), and bytes that mean harm. What was
put into them and must never be repeated to anybody is ``UNSPEAKABLE``.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agent.ga4.rules import limits, names
from agent.ga4.rules.recommended import (
    ITEM_NUMBERS,
    ITEM_TEXTS,
    NUMBERS,
    RECOMMENDED,
    UNDESCRIBED,
    Recommended,
)

Kind = Literal["valid", "damaged", "hostile"]
Form = Literal["body", "array", "single"]
Spot = tuple[Any, Any]  # a container, and the key or index of a value in it

NOW_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000

CANARY = "zq9kwvcanary"
EMAIL = "anna.kowalska@shop.example.org"
CARD = "4111 1111 1111 1111"
KEY = "kq4cardsnumber"  # what a client_key says; it must not be stored either
LONG_KEY = "k" * 60  # of a key some letters are shown
UNSPEAKABLE = (CANARY, EMAIL, CARD, CARD.replace(" ", ""), KEY, LONG_KEY)

KINDS: tuple[Kind, ...] = ("valid", "damaged", "hostile")
SHARES = (35, 45, 20)  # of a hundred
FORMS: tuple[Form, ...] = ("body", "array", "single")


@dataclass(frozen=True, slots=True)
class Payload:
    """What a publisher hands in.

    ``made``: what was done to it, in words. ``said``: the document of a valid one.
    """

    kind: Kind
    form: Form
    app: bool
    raw: bytes
    made: tuple[str, ...] = ()
    said: Any = None


def payload(seed: int, number: int) -> Payload:
    """The payload of this number."""
    rng = random.Random(f"{seed}:{number}")
    [kind] = rng.choices(KINDS, SHARES)
    form, app = rng.choice(FORMS), rng.random() < 0.4
    if kind == "hostile":
        how = rng.choice(HOSTILE)
        return Payload(kind, form, app, how(rng, form, app), (how.__name__,))
    said = document(rng, form, app)
    made = tuple(damaged(rng, said)) if kind == "damaged" else ()
    return Payload(kind, form, app, written(rng, said), made, None if made else said)


def written(rng: random.Random, said: Any) -> bytes:
    """JSON, in one of the ways in which programs write it."""
    indent = 1 if rng.random() < 0.05 else None
    return json.dumps(said, ensure_ascii=rng.random() < 0.5, indent=indent).encode(
        "utf-8", "surrogatepass"
    )


# -- valid ones -------------------------------------------------------------------------------

WORDS = (
    "tea", "Zażółć gęślą jaźń", "café crème", "x" * 100, "ü" * 100, "🧃 juice", "日本語のテキスト", "a;b=c&d",
    "line\nbreak", '"quoted"', "\\", "<b>", "0", "-1", "true", "null", "A-17", "e\u0301" * 50, " ",
)  # fmt: skip
OWN_NAMES = (
    "screen",
    "step",
    "dwell_s",
    "temp_c",
    "paid",
    "Slot",
    "fw_version",
    "queue_len",
    "lang",
)
OWN_EVENTS = ("tap", "vend", "door_open", "Heartbeat", "screen_shown", "a" * 40)
NUMBERS_SAID = (0, 1, -1, 7, 250, 999_999, 0.5, 12.9, -3.25, 1e-9, 2**53, 10**12)
PROPERTIES = ("tier", "site_kind", "Crowd", "a" * 24, "fw")
CURRENCIES = ("EUR", "PLN", "USD", "JPY")
CLIENTS = ("own-scheme-7", *(f"{i + 1000}.{i + 1_700_000_000}" for i in range(3)))
INSTANCES = tuple(f"{i:032x}" for i in range(3))
SHA = "88d7ecb5" * 8
DESCRIBED = {
    app: sorted(name for name in RECOMMENDED if app or name not in names.APP_EVENTS)
    for app in (False, True)
}


def document(rng: random.Random, form: Form, app: bool) -> Any:
    """A valid message."""
    if form == "body":
        more = {"timestamp_micros": when(rng)} if rng.random() < 0.1 else {}
        number = 21 if rng.random() < 0.003 else rng.randint(1, 2)
        made = [event(rng, app) for _ in range(number)]
        if rng.random() < 0.02:
            made += [{"name": "view_item", "params": {"items": _bulky(rng)}} for _ in range(4)]
        return sender(rng, app) | more | {"events": made}
    if form == "array":
        return [event(rng, app) | sender(rng, app) for _ in range(rng.randint(1, 2))]
    return event(rng, app) | sender(rng, app)


def event(rng: random.Random, app: bool) -> dict[str, Any]:
    """A valid event, with what is the agent's own beside its name."""
    known = rng.random() < 0.7
    name = rng.choice(DESCRIBED[app]) if known else rng.choice(OWN_EVENTS)
    made: dict[str, Any] = {"name": name}
    if params := _params(rng, RECOMMENDED.get(name, UNDESCRIBED)):
        made["params"] = params
    beside = (
        ("timestamp_micros", 0.3, when(rng)),
        ("event_id", 0.2, f"e{rng.getrandbits(64):x}"),
        ("session", 0.05, rng.choice(("start", "end"))),
        ("actor", 0.1, rng.choice(("human", "machine"))),
        ("priority", 0.1, rng.choice(("high", "normal", "low"))),
    )
    return made | {key: value for key, odds, value in beside if rng.random() < odds}


def when(rng: random.Random) -> int | str:
    """A time of the last 70 hours; proto JSON writes such numbers as texts."""
    time_us = NOW_US - rng.randrange(70 * HOUR_US)
    return str(time_us) if rng.random() < 0.1 else time_us


def sender(rng: random.Random, app: bool) -> dict[str, Any]:
    """Whose events they are; nobody's, and so the device's, now and then."""
    made: dict[str, Any] = {}
    whose = rng.random()
    if whose < 0.6:
        made["app_instance_id" if app else "client_id"] = rng.choice(INSTANCES if app else CLIENTS)
    elif whose < 0.7 and not app:
        made["client_key"] = KEY
    for key, odds, make in PARTS:
        if rng.random() < odds and not (app and key == "user_agent"):
            made[key] = make(rng)
    return made


def _properties(rng: random.Random) -> dict[str, Any]:
    names_ = rng.sample(PROPERTIES, rng.randint(1, len(PROPERTIES)))
    made = {name: {"value": _scalar(rng, 36)} for name in names_}
    if rng.random() < 0.2:
        made[names_[0]]["timestamp_micros"] = when(rng)
    return made


def _device(rng: random.Random) -> dict[str, Any]:
    return {
        "category": "kiosk",
        "language": "pl",
        "screen_resolution": f"{rng.randint(1, 9)}00x800",
    }


PARTS: tuple[tuple[str, float, Callable[[random.Random], Any]], ...] = (
    ("user_id", 0.1, lambda rng: f"u-{rng.randint(1, 99)}"),
    ("user_properties", 0.15, _properties),
    ("consent", 0.15, lambda rng: {"ad_user_data": rng.choice(("GRANTED", "DENIED"))}),
    ("device", 0.1, _device),
    ("user_location", 0.1, lambda _: {"city": "Łódź", "country_id": "PL", "region_id": "PL-10"}),
    ("ip_override", 0.03, lambda _: "192.0.2.7"),
    ("user_agent", 0.03, lambda _: "Mozilla/5.0 (X11; Linux armv7l)"),
    ("non_personalized_ads", 0.03, lambda rng: rng.random() < 0.5),
    ("user_data", 0.03, lambda _: {"sha256_email_address": [SHA], "address": {"city": "Riga"}}),
)


def _params(rng: random.Random, described: Recommended) -> dict[str, Any]:
    made = {name: _described(rng, name) for name in sorted(described.required)}
    for name in sorted(described.params - described.required):
        if name not in ("currency", "value") and rng.random() < 0.3:
            made[name] = _described(rng, name)
    if described.money and rng.random() < 0.7:
        made |= {"currency": rng.choice(CURRENCIES), "value": _number(rng)}
    made |= {name: _scalar(rng) for name in rng.sample(OWN_NAMES, rng.randint(0, 4))}
    if rng.random() < 0.03:
        made |= {f"p{i}": i for i in range(limits.PARAMS_MAX - len(made))}
    elif rng.random() < 0.05:
        made["session_id"] = rng.choice((1_790_000_000, "1790000000", "GS2.1.s1790000000$o1"))
    elif rng.random() < 0.1:
        made["page_location"] = "https://kiosk.example/" + "p" * rng.randint(0, 900)
    return made


def _described(rng: random.Random, name: str) -> Any:
    if name == "items":
        return [_item(rng) for _ in range(200 if rng.random() < 0.001 else rng.randint(1, 3))]
    if name == "transaction_id":
        return f"T{rng.getrandbits(60):x}z"
    if name == "currency":
        return rng.choice(CURRENCIES)
    return _number(rng) if name in NUMBERS else _word(rng)


def _bulky(rng: random.Random) -> list[dict[str, Any]]:
    """Items of 5 to 60 kB, so that requests are full before they have 25 events."""
    item = {f"own_{i}": "\N{BEVERAGE BOX}" * 100 for i in range(12)}
    return [item | {"item_id": f"A{i}"} for i in range(rng.randint(1, 12))]


def _item(rng: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {rng.choice(("item_id", "item_name")): _word(rng).strip() or "x"}
    for name in rng.sample(sorted(ITEM_TEXTS), rng.randint(0, 2)):
        made.setdefault(name, _word(rng))
    for name in rng.sample(sorted(ITEM_NUMBERS), rng.randint(0, 2)):
        made[name] = _number(rng)
    if rng.random() < 0.2:
        made["slot"] = _scalar(rng)
    return made


def _word(rng: random.Random) -> str:
    return rng.choice(WORDS)


def _number(rng: random.Random) -> float:
    return rng.choice(NUMBERS_SAID)


def _scalar(rng: random.Random, longest: int = 100) -> Any:
    dice = rng.random()
    if dice < 0.1:
        return dice < 0.05
    return _word(rng)[:longest] if dice < 0.6 else _number(rng)


# -- damage -----------------------------------------------------------------------------------

JUNK: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 7.5, lambda: 1e300,
    lambda: 2**64, lambda: -(10**40), lambda: "", lambda: CANARY, lambda: f"{CANARY} " * 30,
    list, dict, lambda: [CANARY], lambda: [None], lambda: [[[{}]]], lambda: {"a": CANARY},
    lambda: {"value": CANARY}, lambda: {"": None}, lambda: [1] * 300,
)  # fmt: skip
BAD_EVENTS = (
    "session_start", "user_engagement", "first_visit", "error", "screen_view", "kiosk tap", "1tap",
    "größe", "tap-x", "", LONG_KEY, "_tap", "tap\n", "💥",
)  # fmt: skip
BAD_PARAMS = (
    "_x", "ga_y", "google_z", "firebase_conversion", "gtag.config", LONG_KEY, "", "é", "a b", "9x",
    "\u202ebidi", "a.b",
)  # fmt: skip
BAD_TIMES = (
    1_800_000_000, 1_799_999_999_123, NOW_US * 1000, "1800000000", NOW_US / 1e6, 0, -5, 5, 1e300,
    "yesterday " + CANARY, "2026-01-31T12:00:00Z", NOW_US + 90 * HOUR_US, NOW_US - 99 * HOUR_US,
    NOW_US - 0.5, True, None, [NOW_US], 10**19, 2**53 - 1, float(NOW_US), "9" * 20,
)  # fmt: skip
BAD_CURRENCIES = ("eur", "EURO", "", "€", 978, None, CANARY, "ZZZ", ["EUR"])
BAD_AMOUNTS = (
    "12,50",
    "9.99",
    "$19",
    "",
    CANARY,
    True,
    None,
    [],
    {},
    2**70,
    1e308,
    "1e999",
    "0x1F",
)
EXTRAS = ("client-id", "param", "evnets", "debug", "timestamp", "client_ID", LONG_KEY, "\x00", "")
PERSONAL = (EMAIL, f"mail {EMAIL} now", CARD, CARD.replace(" ", ""), int(CARD.replace(" ", "")))
CONSENTS: tuple[Any, ...] = (
    "DENIED", {"ad_user_data": "granted"}, {"ad_user_data": CANARY}, {"ad_storage": "GRANTED"},
    {"ad_personalization": None}, {"ad_user_data": True}, [], {"ad_user_data": {}},
)  # fmt: skip
IDS = ("", 7, 1.5, None, True, "x" * 1001, CANARY * 90, [], {"id": 1}, "abc", "GA1.1.5.6", 10**30)


def damaged(rng: random.Random, said: Any) -> Iterator[str]:
    """Make one to three mistakes in a valid document; yields what they are called."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        damage = rng.choice(COSTLY if rng.random() < 0.01 else DAMAGES)
        damage(rng, said)
        yield damage.__name__


def wrong_kind(rng: random.Random, said: Any) -> None:
    container, key = rng.choice(spots(said))
    container[key] = rng.choice(JUNK)()


def dropped(rng: random.Random, said: Any) -> None:
    found = spots(said)
    container, key = rng.choice(found)
    if len(found) > 1:
        del container[key]


def long_text(rng: random.Random, said: Any) -> None:
    texts = [(c, k) for c, k in spots(said) if isinstance(c[k], str)]
    if texts:
        container, key = rng.choice(texts)
        container[key] = _long(rng)


def bad_event_name(rng: random.Random, said: Any) -> None:
    _event(rng, said)["name"] = rng.choice(BAD_EVENTS)


def bad_param_name(rng: random.Random, said: Any) -> None:
    place = rng.choice((_params_in, _item_in, _properties_in))(rng, said)
    place[rng.choice((*BAD_PARAMS, *sorted(names.RESERVED_PROPERTIES)))] = {"value": 1}


def extra_key(rng: random.Random, said: Any) -> None:
    tables = [c[k] for c, k in spots(said) if isinstance(c[k], dict)]
    table = rng.choice([*tables, _top(rng, said), _event(rng, said)])
    table[rng.choice(EXTRAS)] = rng.choice(JUNK)()


def bad_currency(rng: random.Random, said: Any) -> None:
    params = rng.choice((_params_in, _item_in))(rng, said)
    params["currency"] = rng.choice(BAD_CURRENCIES)
    params.setdefault("value", 5)


def bad_time(rng: random.Random, said: Any) -> None:
    place = rng.choice((_event, _event, _top, _params_in, _property_in))(rng, said)
    place["timestamp_micros"] = rng.choice(BAD_TIMES)


def many_params(rng: random.Random, said: Any) -> None:
    _params_in(rng, said).update({f"more_{i}": _scalar(rng) for i in range(rng.randint(20, 60))})


def many_items(rng: random.Random, said: Any) -> None:
    items = [_item(rng) for _ in range(10)]
    _params_in(rng, said)["items"] = items * rng.choice((21, 22, 40))


def many_properties(rng: random.Random, said: Any) -> None:
    number = rng.randint(24, 50)
    _properties_in(rng, said).update({f"prop_{i}": {"value": i} for i in range(number)})


def many_events(rng: random.Random, said: Any) -> None:
    found = events_in(said)
    if len(found) and isinstance(said, dict) and "events" in said:
        said["events"] = [dict(rng.choice(found)) for _ in range(rng.choice((25, 26, 60)))]


def long_identifier(rng: random.Random, said: Any) -> None:
    where = rng.choice((_params_in, _params_in, _item_in, _top))
    name = (
        "user_id" if where is _top else rng.choice(("transaction_id", "item_id", "coupon", "x_id"))
    )
    where(rng, said)[name] = _long(rng)


def personal_data(rng: random.Random, said: Any) -> None:
    said_, place = rng.choice(PERSONAL), rng.choice((_params_in, _item_in, _property_in, _top))
    name = {_property_in: "value", _top: "user_id"}.get(place) or rng.choice(
        ("note", "search_term", "page_location", "member_id", "item_name", "gtin")
    )
    found = place(rng, said)
    found[name] = f"https://a.example/?q={said_}#x" if name == "page_location" else said_


def debug_mode(rng: random.Random, said: Any) -> None:
    _params_in(rng, said)["debug_mode"] = rng.choice((1, True, "true", 0, [CANARY]))


def bad_consent(rng: random.Random, said: Any) -> None:
    _top(rng, said)["consent"] = rng.choice(CONSENTS)


def bad_identity(rng: random.Random, said: Any) -> None:
    name = rng.choice(("client_id", "app_instance_id", "user_id", "client_key"))
    _top(rng, said)[name] = rng.choice(IDS)


def bad_amount(rng: random.Random, said: Any) -> None:
    if rng.random() < 0.5:
        _item_in(rng, said)[rng.choice(("price", "quantity"))] = rng.choice(BAD_AMOUNTS)
    else:
        _params_in(rng, said).update(value=rng.choice(BAD_AMOUNTS), currency="EUR")


def bad_items(rng: random.Random, said: Any) -> None:
    items = rng.choice(
        ([], {}, [{}], [{"price": 1}], [CANARY], "items", [[]], [None, {"item_id": "A"}])
    )
    _params_in(rng, said)["items"] = items


def bad_session(rng: random.Random, said: Any) -> None:
    params = _params_in(rng, said)
    params["session_id"] = rng.choice((CANARY, 0, -1, 1.5, "", None, "GS9.x", 2**70, [], True))
    params["engagement_time_msec"] = rng.choice((-1, "soon", None, 1e300, "100", True))


def null_everywhere(rng: random.Random, said: Any) -> None:
    for container, key in spots(said):
        if rng.random() < 0.2:
            container[key] = None


def half_characters(rng: random.Random, said: Any) -> None:
    _params_in(rng, said)["half"] = rng.choice(("\ud83d", "a\udc00b")) + CANARY


DAMAGES = (
    wrong_kind, wrong_kind, wrong_kind, dropped, dropped, long_text, long_text, bad_event_name,
    bad_param_name, extra_key, bad_currency, bad_time, bad_time, many_params, many_properties,
    long_identifier, personal_data, personal_data, debug_mode, bad_consent, bad_identity,
    bad_amount, bad_items, bad_session, null_everywhere, half_characters,
)  # fmt: skip
COSTLY = (many_items, many_events)


def spots(said: Any) -> list[Spot]:
    """Every value in a document, as where it stands. Containers come before what is in them."""
    found: list[Spot] = []
    waiting = [said]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found or [({"": 0}, "")]


def events_in(said: Any) -> list[dict[str, Any]]:
    """The events that are objects still."""
    found = said.get("events", [said]) if isinstance(said, dict) else said
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _event(rng: random.Random, said: Any) -> dict[str, Any]:
    found = events_in(said)
    return rng.choice(found) if found else {}


def _top(rng: random.Random, said: Any) -> dict[str, Any]:
    """What says whose the events are."""
    return said if isinstance(said, dict) else _event(rng, said)


def _table(owner: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(owner.get(key), dict):
        owner[key] = {}
    found: dict[str, Any] = owner[key]
    return found


def _params_in(rng: random.Random, said: Any) -> dict[str, Any]:
    return _table(_event(rng, said), "params")


def _properties_in(rng: random.Random, said: Any) -> dict[str, Any]:
    return _table(_top(rng, said), "user_properties")


def _property_in(rng: random.Random, said: Any) -> dict[str, Any]:
    found = _table(_properties_in(rng, said), rng.choice(PROPERTIES))
    found.setdefault("value", 1)
    return found


def _item_in(rng: random.Random, said: Any) -> dict[str, Any]:
    params = _params_in(rng, said)
    items = params.get("items")
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        items = params["items"] = [_item(rng)]
    found: dict[str, Any] = items[0]
    return found


def _long(rng: random.Random) -> str:
    letters = rng.choice((" ", "ü", "🧃", "é", "\u200d👩", "7", "%", '"'))
    return CANARY + letters * rng.choice((90, 101, 260, 501, 2000))


# -- hostile ones -----------------------------------------------------------------------------


def _sound(rng: random.Random, form: Form, app: bool) -> str:
    return json.dumps(document(rng, form, app), ensure_ascii=False)


def _around(rng: random.Random, form: Form, inner: str) -> bytes:
    """A message with this JSON text as the value of something, wherever it may stand."""
    one = f'"{CANARY}"'
    at = rng.choice(
        (
            *['"name":"tap","params":{"p":%s,"n":1}'] * 6, '"name":%s', '"name":"tap","params":%s',
            '"name":"tap","event_id":%s', '"name":"tap","timestamp_micros":%s',
            '"name":"view_item","params":{"items":[{"item_id":%s}]}',
            '"name":"view_item","params":{"items":%s}', '"name":"tap","params":{"value":%s}',
        )
    )  # fmt: skip
    beside = rng.choice(
        ("", "", "", "", "", "", f'"client_id":{inner}', f'"user_properties":{{"u":{inner}}}', f'"device":{inner}',
         f'"user_properties":{{"u":{{"value":{inner}}}}}', f'"consent":{{"ad_user_data":{inner}}}',
         f'"user_data":{inner}', f'"ip_override":{inner}', f'"x":{one}', f'"user_id":{inner}',
         f'"cookies":{inner}', f'"timestamp_micros":{inner}')
    )  # fmt: skip
    event_, more = at.replace("%s", inner), f",{beside}" if beside else ""
    if form == "body":
        return f'{{"events":[{{{event_}}}]{more}}}'.encode("utf-8", "surrogatepass")
    text = f"{{{event_}{more}}}"
    return (f"[{text},{one}]" if form == "array" else text).encode("utf-8", "surrogatepass")


def deep_nesting(rng: random.Random, form: Form, app: bool) -> bytes:
    depth = rng.choice((5, 20, 25, 28, 29, 30, 31, 33, 200, 5_000))
    first, last = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"b":', "}]")))
    return _around(rng, form, first * depth + f'"{CANARY}"' + last * depth)


def never_closed(rng: random.Random, form: Form, app: bool) -> bytes:
    return (
        rng.choice(("[", '{"a":', '[{"events":', '{"events":[')) * rng.choice((1, 9, 5_000))
    ).encode()


def huge_number(rng: random.Random, form: Form, app: bool) -> bytes:
    number = rng.choice(
        ("1e999", "-1e999", "1" + "0" * 4000, "-" + "9" * 4299, "9" * 4301, "9" * 50_000, "1e308",
         "0." + "3" * 9000, "1e-999", "-0", "-0.0", "1E400", "123456789012345678901234567890",
         "9007199254740993", "1e22")
    )  # fmt: skip
    return _around(rng, form, number)


def no_number(rng: random.Random, form: Form, app: bool) -> bytes:
    number = rng.choice(("NaN", "Infinity", "-Infinity", "nan", "0x10", "01", "+1", ".5", "1_000"))
    return _around(rng, form, number)


def lone_surrogate(rng: random.Random, form: Form, app: bool) -> bytes:
    half = rng.choice((r"\ud800", r"\udfff", r"a\udc00b", r"\ud83dx", r"\uD83D\ud83d"))
    if rng.random() < 0.3:
        return _around(rng, form, f'{{"{half}":"{CANARY}"}}')
    return _around(rng, form, f'"{half}{CANARY}"')


def surrogate_bytes(rng: random.Random, form: Form, app: bool) -> bytes:
    return _around(rng, form, f'"\ud83d{CANARY}"')


def duplicate_keys(rng: random.Random, form: Form, app: bool) -> bytes:
    text = _sound(rng, form, app)
    again = rng.choice(
        ('"name":"tap",', '"params":{},', '"events":[],', '"client_id":"9.9",', '"name":7,')
    )
    return text.replace("{", "{" + again * rng.choice((1, 2, 50)), rng.choice((1, 2, 5))).encode()


def bad_utf8(rng: random.Random, form: Form, app: bool) -> bytes:
    raw = bytearray(_sound(rng, form, app).encode())
    for _ in range(rng.choice((1, 2, 9))):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def other_encoding(rng: random.Random, form: Form, app: bool) -> bytes:
    coding = rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-be", "cp1250"))
    return _sound(rng, form, app).encode(coding, "replace")


def cut_off(rng: random.Random, form: Form, app: bool) -> bytes:
    raw = _sound(rng, form, app).encode()
    return raw[: rng.randrange(len(raw))]


def too_much(rng: random.Random, form: Form, app: bool) -> bytes:
    text = _sound(rng, form, app)
    return (text + rng.choice((text, "\x00", "]", "//x", ",", "\n\n", "}" * 99))).encode()


def wrong_top(rng: random.Random, form: Form, app: bool) -> bytes:
    return rng.choice(
        (b"", b" ", b"\n" * 50, b"null", b"true", b"17", b'"' + CANARY.encode() + b'"', b"[]", b"{}",
         b"[[]]", b"[null]", b"[[{}]]", b'{"events":null}', b'{"events":[]}', b'{"events":{}}',
         b'{"events":[null,7,"x",[]]}', b'{"events":[[]],"client_id":"1.2"}', b"[{},{},{}]",
         b'{"events":"' + CANARY.encode() + b'"}', b"\xef\xbb\xbf", b"\x00", b"<xml/>", b"a=b&c=d",
         b'{"name":"tap"}', b'[{"name":"tap"},7]', b'{"":{}}', b"\xef\xbb\xbf\xef\xbb\xbf{}")
    )  # fmt: skip


def control_characters(rng: random.Random, form: Form, app: bool) -> bytes:
    letter = rng.choice(
        ("\x00", "\x07", "\x1b[2J", "\n", "\x7f", "\u2028", "\x85", "\ufeff", "\u202e")
    )
    text = json.dumps(letter * 3 + CANARY, ensure_ascii=rng.random() < 0.7)
    inner = rng.choice((text, f'"{letter}{CANARY}"', f"{{{json.dumps(letter)}:1}}"))
    return _around(rng, form, inner)


def nulls(rng: random.Random, form: Form, app: bool) -> bytes:
    said = document(rng, form, app)
    for container, key in spots(said):
        if rng.random() < 0.8 and not isinstance(container[key], dict | list):
            container[key] = None
    return json.dumps(said).encode()


def long_text_anywhere(rng: random.Random, form: Form, app: bool) -> bytes:
    return _around(rng, form, json.dumps((CANARY + "🧃x") * rng.choice((30, 300, 900))))


def many_elements(rng: random.Random, form: Form, app: bool) -> bytes:
    one = rng.choice(("{}", "null", "[]", f'"{CANARY}"', '{"item_id":"A"}', "1e3"))
    return _around(rng, form, f"[{','.join([one] * rng.choice((26, 30, 201)))}]")


def many_keys(rng: random.Random, form: Form, app: bool) -> bytes:
    start = rng.choice(("k", LONG_KEY, "-", "_", ""))
    number = rng.choice((26, 30, 150))
    return _around(rng, form, json.dumps({f"{start}{i}": CANARY for i in range(number)}))


def random_tree(rng: random.Random, form: Form, app: bool) -> bytes:
    inner = json.dumps(_tree(rng, 4))
    return inner.encode() if rng.random() < 0.3 else _around(rng, form, inner)


def random_bytes(rng: random.Random, form: Form, app: bool) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 300)))


HOSTILE: tuple[Callable[[random.Random, Form, bool], bytes], ...] = (
    deep_nesting, never_closed, huge_number, huge_number, no_number, lone_surrogate,
    surrogate_bytes, duplicate_keys, bad_utf8, other_encoding, cut_off, too_much, wrong_top,
    wrong_top, control_characters, nulls, long_text_anywhere, many_elements, many_keys,
    random_tree, random_tree, random_bytes,
)  # fmt: skip
TREE_KEYS = (
    "name", "params", "events", "items", "value", "currency", "client_id", "user_properties", "x",
    "consent", "device", "timestamp_micros", "event_id", "session", "raw", "stamp", "stream",
    "complete", "cookies", "item_id", "transaction_id", "",
)  # fmt: skip


def _tree(rng: random.Random, depth: int) -> Any:
    """Anything, made of the words that the agent knows."""
    dice = rng.random()
    if depth and dice < 0.5:
        return {rng.choice(TREE_KEYS): _tree(rng, depth - 1) for _ in range(rng.randint(0, 5))}
    if depth and dice < 0.7:
        return [_tree(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return rng.choice(JUNK)()


# -- a few very large ones --------------------------------------------------------------------


def very_large(size: int) -> Iterator[tuple[str, bytes]]:
    """Messages of about this many bytes, each with what is large in it."""
    text = json.dumps(CANARY + "x" * size)
    yield "param", f'{{"events":[{{"name":"tap","params":{{"p":{text}}}}}]}}'.encode()
    yield "identifier", f'{{"name":"tap","params":{{"p_id":{text}}}}}'.encode()
    yield "name", f'{{"name":{text}}}'.encode()
    yield "key", f'{{"name":"tap","{"k" * size}":1}}'.encode()
    yield "param's name", f'{{"name":"tap","params":{{"{"k" * size}":1}}}}'.encode()
    yield "client", f'{{"name":"tap","client_id":{text}}}'.encode()
    yield "property", f'{{"name":"tap","user_properties":{{"u":{{"value":{text}}}}}}}'.encode()
    yield "user agent", f'{{"name":"tap","user_agent":{text}}}'.encode()
    yield "whole", text.encode()
    yield "open", text[:-1].encode()
    yield "digits", f'{{"name":"tap","params":{{"p":{"7" * size}}}}}'.encode()
    yield "brackets", b"[" * size
    wide = "\N{BEVERAGE BOX}" * (size // 4)
    yield "wide", f'{{"name":"tap","params":{{"p":"{wide}"}}}}'.encode()


def very_many(size: int) -> Iterator[tuple[str, bytes]]:
    """Messages of about this many bytes, made of small parts."""
    params = {f"p{i}": CANARY for i in range(size // 25)}
    yield "params", json.dumps({"name": "tap", "params": params}).encode()
    items = b",".join([b"{}"] * (size // 3))
    yield "items", b'{"name":"view_item","params":{"items":[%s]}}' % items
    yield "nulls", b"[%s]" % b",".join([b"null"] * (size // 5))
    yield "events", b'{"events":[%s]}' % b",".join([b'{"name":"tap"}'] * (size // 15))
    properties = {f"p{i}": {"value": 1} for i in range(size // 25)}
    yield "properties", json.dumps({"name": "tap", "user_properties": properties}).encode()


def facts(each: Payload) -> Mapping[str, Any]:
    """What a person needs who looks for the mistake."""
    return {"kind": each.kind, "form": each.form, "app": each.app, "made": each.made,
            "raw": each.raw[:3000]}  # fmt: skip
