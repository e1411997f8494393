"""What in ``[device]`` goes together, and what of it GA4 would not take.

Each event of the device would carry the mistake, and GA4 would say nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.config import readers
from agent.config.problems import MisfitError, Place
from agent.ga4.policy import Policy

_AUTO: Final = readers.AUTO
_MADE: Final[Mapping[str, str]] = {
    "session_id": "it nowhere: the agent puts it on events ([session])",
    "engagement_time_msec": "it nowhere: the agent puts it on events ([session])",
    "event_id": "it nowhere: each event gets its own",
    "timestamp_micros": "it nowhere: each event has its own time",
    "debug_mode": "debug = true under [stream.NAME], else it is taken out again",
}


def check_visitor(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    """Refuse visitor = "sitting" where no sitting could get an id of its own."""
    device = _table(table, "device")
    if device.get("visitor") != "sitting":
        return
    at: Place = ("device", "visitor")
    found = '"sitting"'
    streams = _streams(table)
    if streams and all(_is_app(stream) for stream in streams):
        yield MisfitError(
            f"{found} although every stream is an app stream",
            expected='"device": an app stream knows people by app_instance_id only',
            at=at,
        )
    if _table(table, "session").get("enabled") is False:
        yield MisfitError(
            f"{found} although [session] enabled = false",
            expected="sessions, because a sitting is one",
            at=at,
        )
    if device.get("client_id", _AUTO) != _AUTO:
        yield MisfitError(
            f"a fixed id although visitor = {found}",
            expected='"auto": each sitting gets an id of its own',
            at=("device", "client_id"),
        )


def check_params(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    """Refuse params and user properties of the device that GA4 would drop or cut."""
    device, streams = _table(table, "device"), _streams(table)
    if streams and all(stream.get("mode") == "off" for stream in streams):
        return  # an own server container may have rules of its own
    params, properties = _scalars(device, "params"), _scalars(device, "user_properties")
    for name in params:
        if name in _MADE:
            found = "a param of the agent's own"
            yield MisfitError(found, expected=_MADE[name], at=("device", "params", name))
    ga360 = any(_table(stream, "rules").get("ga360") is True for stream in streams)
    others = {name: value for name, value in params.items() if name not in _MADE}
    yield from _broken(others, properties, Policy(ga360=ga360))


def _broken(
    params: Mapping[str, Any], properties: Mapping[str, Any], policy: Policy
) -> Iterator[MisfitError]:
    """What GA4 says of a body with these and nothing else that could be wrong."""
    if not params and not properties:
        return
    # Here, because few files need it and it loads the list of currencies: a tenth of a second on
    # a small board, for every command.
    from agent.ga4.validate import validate

    body = {
        "client_id": "1.1",
        "events": [{"name": "any", "params": params}],
        "user_properties": {name: {"value": value} for name, value in properties.items()},
    }
    for violation in validate(body, stream="web", now_us=0, policy=policy, size=0):
        found, _, expected = violation.description.partition(", expected ")
        yield MisfitError(
            found.removeprefix("found "), expected=expected, at=_place(violation.place)
        )


def _place(place: Place) -> Place:
    """Where something of that body stands in the configuration."""
    if place[0] == "events":
        return ("device", *place[2:])
    return ("device", *place[:2])


def _scalars(device: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Names and those values that are none of the wrong kind: of others their reader tells."""
    return {name: value for name, value in _table(device, key).items() if _is_scalar(value)}


def _is_scalar(value: object) -> bool:
    try:
        readers.scalar(value)
    except MisfitError:
        return False
    return True


def _is_app(stream: Mapping[str, Any]) -> bool:
    return "firebase_app_id" in stream and "measurement_id" not in stream


def _streams(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [stream for stream in _table(table, "stream").values() if isinstance(stream, dict)]


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table at a key; an empty one if it is no table."""
    found = table.get(key)
    return found if isinstance(found, dict) else {}
