"""The tables ``[stream.NAME]`` and ``[stream.NAME.rules]``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from agent.config import addresses, readers
from agent.ga4.rules import limits

_EventName = Annotated[
    str,
    readers.matching(
        "[A-Za-z][A-Za-z0-9_]{0,39}", expected="a letter, then up to 39 letters, digits and _"
    ),
]
_SECOND_US: Final = 1_000_000


def _is_value(text: str) -> bool:
    return 0 < len(text) <= limits.PARAM_VALUE_MAX and text.isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesSettings:
    """Which statement of Google's holds where its pages disagree: see docs/ga4-rules.md.

    The defaults are lenient: of two statements the one that takes more.
    """

    ga360: Annotated[bool, readers.switch()] = False
    item_custom_params: Annotated[int, readers.number(0, 100)] = limits.ITEM_CUSTOM_PARAMS_MAX
    counting: Annotated[
        Literal["characters", "url_encoded"], readers.choice("characters", "url_encoded")
    ] = "characters"
    numeric_texts: Annotated[bool, readers.switch()] = True
    value_and_currency: Annotated[
        Literal["documented", "event_builder"], readers.choice("documented", "event_builder")
    ] = "documented"
    client_ids: Annotated[Literal["any", "recommended"], readers.choice("any", "recommended")] = (
        "any"
    )
    session_ids: Annotated[Literal["documented", "any"], readers.choice("documented", "any")] = (
        "documented"
    )
    user_data_needs_user_id: Annotated[bool, readers.switch()] = False
    reserved_events: Annotated[
        tuple[_EventName, ...], readers.array(expected="an array of event names")
    ] = ()
    event_prefixes: Annotated[
        tuple[_EventName, ...], readers.array(expected="an array of beginnings of event names")
    ] = ()
    future: Annotated[float, readers.duration(low="0 s", high="24 h")] = (
        limits.FUTURE_US / _SECOND_US
    )
    """Seconds by which a publisher's time may be ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """One GA4 data stream: a web stream by measurement_id or an app stream by firebase_app_id."""

    measurement_id: Annotated[
        str | None,
        readers.matching("G-[A-Z0-9]+", expected="a measurement id such as G-ABCDE12345"),
    ] = None
    firebase_app_id: Annotated[
        str | None,
        readers.matching(
            "[0-9]:[0-9]+:[A-Za-z]+:[A-Za-z0-9]+",
            expected="a Firebase app id such as 1:1234567890:android:abcdef012345",
        ),
    ] = None
    endpoint: Annotated[str, addresses.endpoint()] = "https://www.google-analytics.com"
    """Scheme and host, without a slash at the end; https, or http on loopback."""
    api_secret_file: Annotated[Path | None, readers.secret_path()] = None
    accept_body: Annotated[bool, readers.switch()] = False
    """An own server container may answer with a body; Google's server does not."""
    mode: Annotated[
        Literal["repair", "strict", "off"], readers.choice("repair", "strict", "off")
    ] = "repair"
    """What becomes of an event that GA4 would cut or drop."""
    debug: Annotated[bool, readers.switch()] = False
    """Leave debug_mode in events that have it."""
    traffic_type: Annotated[
        str | None,
        readers.text(expected="a text of 1 to 100 characters", fits=_is_value),
    ] = None
    """Put on every event; None: on none."""
    late: Annotated[
        Literal["dead", "restamp", "send"], readers.choice("dead", "restamp", "send")
    ] = "dead"
    """What becomes of an event that GA4 would move to another time."""
    on_uncertain: Annotated[Literal["repeat", "lose"], readers.choice("repeat", "lose")] = "repeat"
    """What becomes of a request of which nobody knows whether it arrived."""
    send_event_id: Annotated[bool, readers.switch()] = True
    send_time_uncertain: Annotated[bool, readers.switch()] = True
    keep_pii: Annotated[bool, readers.switch()] = False
    """Send values that look like e-mail addresses or card numbers all the same."""
    rules: RulesSettings = field(default_factory=RulesSettings)
