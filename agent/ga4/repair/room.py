"""What gives way when there is more than GA4 counts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.ga4 import precedence
from agent.ga4.policy import Policy
from agent.ga4.repair.kind import Kind
from agent.ga4.rules import limits
from agent.ga4.rules.recommended import ITEM_PARAMS
from agent.ga4.violation import Place

Leaving = Iterator[tuple[Place, Kind]]


def surplus(
    body: Mapping[str, Any],
    *,
    required: frozenset[str],
    policy: Policy,
    added: Sequence[str],
    reserved: Sequence[str],
) -> Sequence[tuple[Place, Kind]]:
    """What is too many in a body of one event that is mended otherwise.

    ``required``: by the event. ``added``: params that the agent put there. ``reserved``: params
    that stand for those which it is going to add.
    """
    params = body["events"][0].get("params", {})
    return [
        *_properties(body.get("user_properties") or {}),
        *_params(params, _order(params, required, added, reserved), {*added, *reserved}),
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
    params: Mapping[str, Any],
    required: frozenset[str],
    added: Sequence[str],
    reserved: Sequence[str],
) -> Sequence[str]:
    """The params in the order in which they give way, each once."""
    lasting = required | precedence.KEPT
    of_agent = [name for name in precedence.of_agent(added, reserved) if name not in lasting]
    own = {name: v for name, v in params.items() if name not in {*added, *reserved}}
    return [
        *(name for name in of_agent if name in params),
        *precedence.of_publisher(own, required),
    ]


def _items(items: Sequence[Mapping[str, Any]], policy: Policy) -> Leaving:
    for index, item in enumerate(items):
        place = ("events", 0, "params", "items", index)
        custom = [name for name in item if name not in ITEM_PARAMS]
        if index >= limits.ITEMS_MAX:
            yield place, Kind.ITEM_DROPPED
            continue
        for name in custom[policy.item_custom_params :]:
            yield (*place, name), Kind.ITEM_PARAM_DROPPED
