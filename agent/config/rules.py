"""Rules between keys. They look at the raw tables: a bad key in one place hides no other."""

from collections.abc import Callable, Iterator, Mapping
from os.path import normpath
from pathlib import Path
from typing import Any, Final

from agent.config.addresses import is_loopback, split_listen
from agent.config.device_rules import check_params, check_visitor
from agent.config.items import check_items
from agent.config.mapping import check_mapping, constant, plain_filter
from agent.config.problems import MisfitError, bare, did_you_mean, quote
from agent.config.settings import (
    Config,
    HttpSettings,
    MqttSettings,
    SessionSettings,
    SubscriptionSettings,
)
from agent.config.stream import StreamSettings
from agent.units import UnitError, format_duration, parse_duration


def _check_stream(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    named = {"measurement_id", "firebase_app_id"} & table.keys()
    if len(named) != 1:
        found = "both measurement_id and" if named else "neither measurement_id nor"
        yield MisfitError(f"{found} firebase_app_id", expected="exactly one of them")


def _check_http(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    listen = table.get("listen")
    address = split_listen(listen) if isinstance(listen, str) else None
    if address is None or is_loopback(address[0]):
        return
    if "token_file" not in table and table.get("enabled") is not False:
        yield MisfitError(
            "nothing",
            expected=f"a token file, because other machines can reach {listen}",
            hint="set it, or listen on 127.0.0.1",
            at=("token_file",),
        )


def _check_mqtt(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    yield from _check_mqtt_tls(table)
    yield from _check_mqtt_protocol(table)
    yield from _check_mqtt_topics(table.get("subscriptions"))


def _check_mqtt_tls(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    if table.get("tls", False) is False:
        for key in ("ca_file", "certificate_file", "key_file"):
            if key in table:
                yield MisfitError("a file without tls", expected="tls = true beside it", at=(key,))
    for key, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if key in table and other not in table:
            yield MisfitError("nothing", expected=f"the file that goes with {key}", at=(other,))


def _check_mqtt_protocol(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    if table.get("protocol") != "3.1.1":
        return
    if "session_expiry" in table:
        yield MisfitError(
            'a duration although protocol = "3.1.1"',
            expected='protocol = "5", the only one that knows it',
            hint="remove one of the two",
            at=("session_expiry",),
        )
    if "password_file" in table and "username" not in table:
        yield MisfitError(
            "nothing",
            expected="a username, because MQTT 3.1.1 takes no password without one",
            at=("username",),
        )


def _check_mqtt_topics(subscriptions: object) -> Iterator[MisfitError]:
    """Refuse a filter given twice: a broker replaces the first subscription by the second."""
    seen: dict[str, int] = {}
    for index, table in _tables(subscriptions):
        topic = table.get("topic")
        if not isinstance(topic, str):
            continue
        first = seen.setdefault(plain_filter(topic), index)
        if first != index:
            yield MisfitError(
                f"the topic of mqtt.subscriptions[{first}] again",
                expected="each topic once",
                at=("subscriptions", index, "topic"),
            )


def _check_session(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    default = SessionSettings()
    timeout = _seconds(table.get("timeout", default.timeout))
    longest = _seconds(table.get("longest", default.longest))
    if timeout is None or longest is None or timeout <= longest:
        return
    at = "timeout" if "timeout" in table else "longest"
    yield MisfitError(
        f"timeout = {format_duration(timeout)} beside longest = {format_duration(longest)}",
        expected="a timeout that is no longer than the longest session",
        at=(at,),
    )


def _seconds(said: object) -> float | None:
    """A duration in seconds; None for what its reader refuses."""
    if isinstance(said, float):
        return said  # the default
    try:
        return parse_duration(said) if isinstance(said, str) else None
    except UnitError:
        return None


def _check_subscription(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    yield from check_mapping(table)
    yield from check_items(table)


def _check_config(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    yield from _check_named_streams(table)
    yield from _check_spool(table)
    yield from check_visitor(table)
    yield from check_params(table)


def _check_named_streams(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    """Refuse subscriptions that name a stream that is not there."""
    streams, mqtt = table.get("stream", {}), table.get("mqtt")
    if not isinstance(streams, dict) or not isinstance(mqtt, dict):
        return
    for index, subscription in _tables(mqtt.get("subscriptions")):
        text = subscription.get("stream")
        if not isinstance(text, str):
            continue
        name = constant(text)
        if not streams or (name is not None and name not in streams):
            known = f"one of the streams {', '.join(map(bare, streams))}"
            yield MisfitError(
                quote(text),
                expected=known
                if streams
                else "the name of a stream that has a [stream.NAME] table",
                hint=did_you_mean(text, list(streams), likeness=0.6),
                at=("mqtt", "subscriptions", index, "stream"),
            )


def _check_spool(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    """Refuse a folder in which the agent's own files would be taken for events and removed."""
    spool = table.get("spool")
    directory = spool.get("directory") if isinstance(spool, dict) else None
    state = table.get("state_directory", str(Config().state_directory))
    if not isinstance(directory, str) or not isinstance(state, str):
        return
    own, around = Path(normpath(state)), Path(normpath(directory))
    if around == own or around in own.parents:
        yield MisfitError(
            "the state directory" if around == own else "a folder around the state directory",
            expected="a folder of its own",
            hint="without this line it is the folder spool in the state directory",
            at=("spool", "directory"),
        )


def no_rules(_: Mapping[str, Any]) -> Iterator[MisfitError]:
    """For tables whose keys do not depend on each other."""
    return iter(())


def _tables(array: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, table in enumerate(array if isinstance(array, list) else ()):
        if isinstance(table, dict):
            yield index, table


RULES: Final[Mapping[type, Callable[[Mapping[str, Any]], Iterator[MisfitError]]]] = {
    StreamSettings: _check_stream,
    HttpSettings: _check_http,
    MqttSettings: _check_mqtt,
    SubscriptionSettings: _check_subscription,
    SessionSettings: _check_session,
    Config: _check_config,
}
