"""Who gives way when there is more than GA4 counts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.ga4.policy import Policy
from agent.ga4.repair.kind import Kind
from agent.ga4.rules import limits
from agent.ga4.rules.recommended import ITEM_PARAMS
from agent.ga4.violation import Place

Leaving = Iterator[tuple[Place, Kind]]

SESSION = ("engagement_time_msec", "session_id")  # the first is nothing without the second
# What an amount, a sale or a time hangs on. With what an event requires these are far below 25.
LAST = frozenset(("value", "currency", "items", "transaction_id", "timestamp_micros"))


def surplus(
    body: Mapping[str, Any],
    *,
    required: frozenset[str],
    policy: Policy,
    added: Sequence[str],
    reserved: Sequence[str],
) -> Sequence[tuple[Place, Kind]]:
    """What is too many in a body of one event that is mended otherwise.

    ``required``: by the event. ``added``: params that the agent put there, the first to give way
    first. ``reserved``: params that stand for those which it is going to add.
    """
    params = body["events"][0].get("params", {})
    order = [name for name in _order(params, added, reserved) if name not in required | LAST]
    return [
        *_properties(body.get("user_properties") or {}),
        *_params(params, order, {*added, *reserved}),
        *_items(params.get("items", ()), policy),
    ]


def _properties(properties: Mapping[str, Any]) -> Leaving:
    for name in list(properties)[limits.USER_PROPERTIES_MAX :]:
        yield ("user_properties", name), Kind.USER_PROPERTY_DROPPED


def _params(params: Mapping[str, Any], order: Sequence[str], of_agent: set[str]) -> Leaving:
    for name in order[: max(0, len(params) - limits.PARAMS_MAX)]:
        kind = Kind.AGENT_PARAM_DROPPED if name in of_agent else Kind.PARAM_DROPPED
        yield ("events", 0, "params", name), kind


def _order(
    params: Mapping[str, Any], added: Sequence[str], reserved: Sequence[str]
) -> Sequence[str]:
    """The params in the order in which they give way, each once."""
    of_agent = {*added, *reserved}
    own = [name for name in reversed(list(params)) if name not in of_agent and name not in SESSION]
    others = [name for name in reserved if name not in SESSION]
    session = [name for name in SESSION if name in reserved]
    order = dict.fromkeys((*added, *others, *session, *own, *SESSION))
    return [name for name in order if name in params]


def _items(items: Sequence[Mapping[str, Any]], policy: Policy) -> Leaving:
    for index, item in enumerate(items):
        place = ("events", 0, "params", "items", index)
        custom = [name for name in item if name not in ITEM_PARAMS]
        if index >= limits.ITEMS_MAX:
            yield place, Kind.ITEM_DROPPED
            continue
        for name in custom[policy.item_custom_params :]:
            yield (*place, name), Kind.ITEM_PARAM_DROPPED
