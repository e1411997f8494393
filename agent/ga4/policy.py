"""The settings of validation: what a property has, and where Google's pages leave a choice.

The defaults are lenient: of two statements of Google's the one that accepts more. Reasons and
sources: `docs/ga4-rules.md`.
"""

from dataclasses import dataclass
from typing import Literal

from agent.ga4.request import BODY_LIMIT
from agent.ga4.rules import limits

StreamKind = Literal["web", "app"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How to judge.

    ``ga360``: the property is GA 360, whose texts may have 500 characters.
    ``item_custom_params``: how many params of its own an item may have (SEND: 10; EVT: 27).
    ``body_limit``: a body has fewer bytes than this.
    ``past_us``, ``future_us``: how far from now a time may be, in microseconds.
    ``counting``: a text's length in characters, or as URL-encoded (a translation of LIM).
    ``numeric_texts``: a text that spells a number will do for one (VAL's own sample has one).
    ``value_and_currency``: a value needs its currency where EVT says so, or, as EB wants it, on
    every event, and a currency its value too.
    ``client_ids``: of any form, or only of those that REF recommends.
    ``session_ids``: only of the forms that REF describes, or any.
    ``time_in_params``: `timestamp_micros` may stand among the params (REF lists it there, SEND
    puts it beside the name).
    ``single_event``: `events` may be one event in place of a list of one.
    ``user_data_needs_user_id``: older copies of UID demand it, the present one recommends it.
    ``reserved_events``, ``event_prefixes``: names reserved beyond REF's, such as those of NAM.
    ``own_keys``: keys of an event or a body that are taken out before it is sent.
    """

    ga360: bool = False
    item_custom_params: int = limits.ITEM_CUSTOM_PARAMS_MAX
    body_limit: int = BODY_LIMIT
    past_us: int = limits.PAST_US
    future_us: int = limits.FUTURE_US
    counting: Literal["characters", "url_encoded"] = "characters"
    numeric_texts: bool = True
    value_and_currency: Literal["documented", "event_builder"] = "documented"
    client_ids: Literal["any", "recommended"] = "any"
    session_ids: Literal["documented", "any"] = "documented"
    time_in_params: bool = True
    single_event: bool = True
    user_data_needs_user_id: bool = False
    reserved_events: frozenset[str] = frozenset()
    event_prefixes: tuple[str, ...] = ()
    own_keys: frozenset[str] = frozenset()

    @property
    def param_value_max(self) -> int:
        """Characters of a param's text."""
        return limits.PARAM_VALUE_MAX_360 if self.ga360 else limits.PARAM_VALUE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a verdict depends on beside the body. ``now_us``: microseconds since 1970."""

    stream: StreamKind
    now_us: int
    policy: Policy
