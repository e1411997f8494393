"""What a subscription makes of topic and payload: a `Rule` fills its templates with a message."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agent import jsontext
from agent.event import InvalidEvent, Json, Sender
from agent.intake.parse import SINGLE_KEYS, Draft, Misfit, Parsed, Shape, draft, kind_of, parse
from agent.template import FillError, Scope, Template, bare
from agent.topic import TopicFilter

KEYS: Final = SINGLE_KEYS | {"stream"}
NAMELESS: Final = "-"  # the name of what is only put on events that have names
Filled = Mapping[str, Template | int | float]
"""Templates, and numbers, true and false as they stand in the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How messages of one topic filter become events.

    With the key ``name`` in ``texts``, each message becomes one event. Else the payload is JSON
    events, and what the rule makes is put on those that do not say it themselves. ``streams``:
    those that a template may pick. ``reads``: as what the templates read the payload.
    """

    topic: TopicFilter
    texts: Mapping[str, Template]
    params: Filled
    user_properties: Filled
    streams: frozenset[str]
    reads: Literal["json", "value"] | None

    @classmethod
    def read(
        cls,
        topic: TopicFilter,
        *,
        texts: Mapping[str, str],
        params: Mapping[str, str | int | float],
        user_properties: Mapping[str, str | int | float],
        streams: Collection[str] = (),
    ) -> "Rule":
        """Compile a rule. ``texts``: templates by the key of an event. Raises TemplateError."""
        compiled = {key: Template.read(text, topic.names) for key, text in texts.items()}
        more = _compiled(params, topic.names), _compiled(user_properties, topic.names)
        return cls(
            topic=topic,
            texts=compiled,
            params=more[0],
            user_properties=more[1],
            streams=frozenset(streams),
            reads=_reads(compiled, *more),
        )

    def parsed(self, payload: bytes, shape: Shape, topic: str) -> Parsed:
        """The events of a message. Raises InvalidEvent for one that cannot be read at all.

        ``whole``: what the rule cannot be filled with is a misfit with all of the message.
        """
        scope = self._scope(payload, topic)
        said = None if "name" in self.texts else parse(payload, shape)
        try:
            made = self._draft(scope)
        except InvalidEvent as error:
            return Parsed((Misfit(error, payload),), whole=True)
        if said is None:
            return Parsed((made,), whole=True)
        elements = tuple(
            _put_under(element, made) if isinstance(element, Draft) else element
            for element in said.elements
        )
        return replace(said, elements=elements)

    def _scope(self, payload: bytes, topic: str) -> Scope:
        wildcards = self.topic.match(topic)
        if wildcards is None:
            found = f"found another topic, expected one that fits {self.topic.plain}"
            raise InvalidEvent("", found)
        return Scope(topic=topic, wildcards=wildcards, payload=self._payload(payload))

    def _payload(self, payload: bytes) -> Json:
        try:
            if self.reads == "json":
                return jsontext.loads(payload)
            text = payload.decode("utf-8-sig")
        except jsontext.NotJson as error:
            raise InvalidEvent("", str(error)) from None
        except UnicodeDecodeError as error:
            found = f"found bytes that are no UTF-8 at {error.start}, expected a text"
            raise InvalidEvent("", found) from None
        return bare(text) if self.reads == "value" else None

    def _draft(self, scope: Scope) -> Draft:
        """What the rule makes of a message. Raises InvalidEvent."""
        event: dict[str, Any] = {"name": NAMELESS}
        for key, template in self.texts.items():
            event[key] = _text(template, scope, key)
        event["params"] = _values(self.params, scope, "params")
        properties = _values(self.user_properties, scope, "user_properties")
        event["user_properties"] = {name: _property(v, name) for name, v in properties.items()}
        stream = event.get("stream")
        if stream is not None and stream not in self.streams:
            # The name came with the message: it may be an id that went astray.
            raise InvalidEvent("stream", f"found another text, expected {self._known_streams()}")
        return draft(event, "", KEYS)

    def _known_streams(self) -> str:
        return f"one of {', '.join(sorted(self.streams))}" if self.streams else "a configured one"


def _compiled(values: Mapping[str, str | int | float], names: Collection[str]) -> Filled:
    return {
        key: Template.read(value, names) if isinstance(value, str) else value
        for key, value in values.items()
    }


def _reads(*parts: Filled) -> Literal["json", "value"] | None:
    templates = [value for part in parts for value in part.values() if isinstance(value, Template)]
    reads = {each.reads for template in templates for each in template.placeholders}
    if "json" in reads:
        return "json"
    return "value" if "value" in reads else None


def _text(template: Template, scope: Scope, key: str) -> str | None:
    try:
        return template.text(scope)
    except FillError as error:
        raise _invalid(error, key) from None


def _values(values: Filled, scope: Scope, key: str) -> dict[str, Json]:
    """The values by name, without those that are left out."""
    filled = {name: _value(value, scope, f"{key}.{name}") for name, value in values.items()}
    return {name: value for name, value in filled.items() if value is not None}


def _value(value: Template | float, scope: Scope, place: str) -> Json:
    try:
        return value.value(scope) if isinstance(value, Template) else value
    except FillError as error:
        raise _invalid(error, place) from None


def _property(value: Json, name: str) -> dict[str, Json]:
    """A user property as GA4 takes it."""
    if isinstance(value, dict | list):
        found = f"found {kind_of(value)}, expected a text, a number, true or false"
        raise InvalidEvent(f"user_properties.{name}", found)
    return {"value": value}


def _invalid(error: FillError, place: str) -> InvalidEvent:
    return InvalidEvent(place, str(error), "VALUE_REQUIRED" if error.missing else "VALUE_INVALID")


def _put_under(said: Draft, made: Draft) -> Draft:
    """An event with what the rule made where it says nothing itself."""
    return replace(
        said,
        params=jsontext.frozen({**made.params, **said.params}),
        sender=_sender(said.sender, made.sender),
        session=said.session or made.session,
        actor=said.actor or made.actor,
        priority=made.priority if said.priority is None else said.priority,
        stream=said.stream or made.stream,
    )


def _sender(said: Sender, made: Sender) -> Sender:
    """Who sends. One who is named keeps that name alone: two ids would be two devices."""
    named = said if said.named else made
    return replace(
        said,
        client_id=named.client_id,
        app_instance_id=named.app_instance_id,
        user_id=said.user_id or made.user_id,
        user_properties=jsontext.frozen({**made.user_properties, **said.user_properties}),
    )
