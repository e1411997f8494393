"""Bodies to judge, and what is said of them."""

from agent.ga4.policy import Policy
from agent.ga4.rules import recommended
from agent.ga4.validate import validate

NOW_US = 1_800_000_000_000_000
HEX = "0123456789abcdef0123456789ABCDEF"
SHA = "88d7ecb5" * 8
ITEM = {"item_id": "SKU_1"}
PURCHASE = {"transaction_id": "T1", "currency": "EUR", "value": 12.5, "items": [ITEM]}


def body(*events, **more):
    return {"client_id": "1.2", "app_instance_id": HEX, "events": list(events)} | more


def tap(**params):
    return {"name": "tap", "params": params}


def judged(document, *, stream="web", **settings):
    return validate(document, stream=stream, now_us=NOW_US, policy=Policy(**settings))


def said(document, **how):
    """Path, code and rule of each violation."""
    return [(v.field_path, v.code.value, v.rule) for v in judged(document, **how)]


def of_params(name="tap", /, params=None, **how):
    """What is said of an event's params; the path within them."""
    found = said(body({"name": name, "params": params}), **how)
    return [
        (at.removeprefix("events[0].params").lstrip("."), code, rule) for at, code, rule in found
    ]


def rules(document, **how):
    return [rule for _, _, rule in said(document, **how)]


COMPLETE = {
    "transaction_id": "T1", "items": [ITEM], "score": 7, "search_term": "tea", "value": 5,
    "virtual_currency_name": "Gems", "achievement_id": "A1",
}  # fmt: skip


def complete(name):
    return {key: COMPLETE[key] for key in recommended.RECOMMENDED[name].required}
