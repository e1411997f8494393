"""The params that count or measure: a text in their place would be no amount in any report."""

from agent.ga4.rules.recommended import ITEM_NUMBERS, NUMBERS, RECOMMENDED, UNDESCRIBED

# In events that GA4 does not describe these may mean anything: a battery's level is "low".
VAGUE = frozenset(("level", "score", "index"))
ITEM_AMOUNTS = ITEM_NUMBERS


def amounts(event: str | None = None) -> frozenset[str]:
    """The params of an event that are amounts; None for an event whose name is not known."""
    described = RECOMMENDED.get(event or "", UNDESCRIBED).params
    return (NUMBERS | ITEM_NUMBERS) - VAGUE | (NUMBERS & described)
