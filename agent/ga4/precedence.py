"""Which params give way where there are more than GA4 counts: one order for all who add any. Pure.

From the first to the last: `event_id`, what the configuration puts on every event of the device,
`engagement_time_msec`, `session_id`; then the publisher's own; never `traffic_type`, without which
a test would count as business.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.ga4.identifiers import is_identifier

EVENT_ID = "event_id"
TRAFFIC_TYPE = "traffic_type"
SESSION = ("engagement_time_msec", "session_id")  # the first is nothing without the second
# What an amount, a sale or a time hangs on. With what an event requires these are far below 25.
KEPT = frozenset(("value", "currency", "items", "transaction_id", "timestamp_micros"))


def of_agent(added: Iterable[str], reserved: Iterable[str]) -> Sequence[str]:
    """Params of the agent's in the order in which they give way, but for ``traffic_type``.

    ``added``: those that are there, in an order of their own. ``reserved``: those to come.
    """
    names = [*added, *reserved]
    others = [name for name in names if name not in (EVENT_ID, TRAFFIC_TYPE, *SESSION)]
    order = dict.fromkeys((EVENT_ID, *others, *SESSION))
    return [name for name in order if name in names]


def of_publisher(params: Mapping[str, Any], required: frozenset[str]) -> Sequence[str]:
    """Names of these params in the order in which they give way.

    The last first; identifiers after the others, the session after them. What the event requires
    and what its money hangs on is not among them.
    """
    lasting = required | KEPT | {*SESSION}
    own = [name for name in reversed(list(params)) if name not in lasting]
    named = [name for name in own if is_identifier(name)]
    free = [name for name in own if not is_identifier(name)]
    return [*free, *named, *(name for name in SESSION if name in params)]
