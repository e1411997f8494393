"""How many, how long, how old."""

from collections.abc import Mapping
from types import MappingProxyType

HOUR_US = 3_600_000_000  # microseconds

# Events in a request and bytes of a body are in agent/ga4/request.py, which builds by them.
EVENT_NAME_MAX = 40  # characters: SEND
PARAMS_MAX = 25  # of an event: SEND
PARAM_NAME_MAX = 40  # characters, of items' params too: SEND
PARAM_VALUE_MAX = 100  # characters, of items' params too: SEND
PARAM_VALUE_MAX_360 = 500  # characters, for a GA 360 property: SEND
PARAM_VALUE_EXCEPTIONS: Mapping[str, int] = MappingProxyType(
    {"page_title": 300, "page_referrer": 420, "page_location": 1000}  # characters: LIM
)
PARAMS_OF_ANY_LENGTH = frozenset(("session_id", "session_number"))  # SEND: GTM's own values

ITEMS_MAX = 200  # GA4 ecommerce guide
ITEM_CUSTOM_PARAMS_MAX = 27  # EVT and LIM
ITEM_CUSTOM_PARAMS_MAX_IN_SEND = 10  # SEND contradicts them

USER_PROPERTIES_MAX = 25  # in a request: SEND
USER_PROPERTY_NAME_MAX = 24  # characters: SEND
USER_PROPERTY_VALUE_MAX = 36  # characters: SEND
USER_ID_MAX = 256  # characters: LIM

PAST_US = 72 * HOUR_US  # SEND: older events are moved without a word, or rejected
FUTURE_US = HOUR_US // 4  # the server said so in 2022 (rudder-transformer#1159); REF: "in the past"

WHOLE_NUMBER_MAX = 2**63 - 1  # BigQuery export: int_value is a 64-bit integer
