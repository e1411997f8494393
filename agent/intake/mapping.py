"""What a subscription makes of topic and payload: a `Rule` fills its templates with a message."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agent import jsontext
from agent.event import InvalidEvent, Json, Sender
from agent.ga4.rules.amounts import amounts
from agent.intake.mapped import Params, Said, Scalar, Table, text, value
from agent.intake.parse import (
    SINGLE_KEYS,
    Draft,
    Misfit,
    Parsed,
    Shape,
    draft,
    parse,
    without_unkept,
)
from agent.intake.times import NoTime, read_time
from agent.jsontext import kind_of
from agent.template import Placeholder, Scope, Template, bare
from agent.topic import TopicFilter

KEYS: Final = SINGLE_KEYS | {"stream"}
NAMELESS: Final = "-"  # the name of what is only put on events that have names
TIME: Final = "time"  # of the keys of a mapping the one that is not a text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How messages of one topic filter become events.

    With the key ``name`` in ``texts``, each message becomes one event. Else the payload is JSON
    events, and what the rule makes is put on those that do not say it themselves. ``time``: when
    it happened. ``clock``: whose clock the publisher's times are of. ``streams``: those that a
    template may pick. ``reads``: as what the templates read the payload.
    """

    topic: TopicFilter
    texts: Mapping[str, Template]
    params: Params
    user_properties: Table
    time: Template | None
    clock: Literal["device", "publisher"]
    streams: frozenset[str]
    reads: Literal["json", "value"] | None

    @classmethod
    def read(
        cls,
        topic: TopicFilter,
        *,
        texts: Mapping[str, str],
        params: Mapping[str, Said],
        user_properties: Mapping[str, Scalar],
        streams: Collection[str] = (),
        clock: Literal["device", "publisher"] = "publisher",
    ) -> "Rule":
        """Compile a rule. Raises TemplateError.

        ``texts``: templates by the key of an event, ``time`` among them. ``params``: as the
        configuration says them, which has been checked.
        """
        compiled = {key: Template.read(text, topic.names) for key, text in texts.items()}
        made = Params.read(params, topic.names)
        properties = Table.read(user_properties, topic.names)
        said = [each for template in compiled.values() for each in template.placeholders]
        return cls(
            topic=topic,
            time=compiled.pop(TIME, None),
            texts=compiled,
            params=made,
            user_properties=properties,
            clock=clock,
            streams=frozenset(streams),
            reads=_reads([*said, *made.placeholders, *properties.placeholders]),
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
            return Parsed((Misfit((error,), self.without_unkept(payload)),), whole=True)
        if said is None:
            return Parsed((made,), whole=True)
        elements = tuple(
            _put_under(element, made) if isinstance(element, Draft) else element
            for element in said.elements
        )
        return replace(said, elements=elements)

    def without_unkept(self, payload: bytes) -> bytes:
        """A payload as a dead letter may hold it: without what ``client_key`` reads of it."""
        template = self.texts.get("client_key")
        read = template.placeholders if template else ()
        paths = [each.path for each in read if each.reads == "json"]
        if any(each.reads == "value" for each in read):
            return b""
        if not paths:
            return without_unkept(payload)
        try:
            document = jsontext.loads(payload)
        except jsontext.NotJson:
            return b""  # nobody can say where in it a card's number ends
        for path in paths:
            document = _without(document, path)
        return without_unkept(jsontext.dumps(document))

    def _scope(self, payload: bytes, topic: str) -> Scope:
        wildcards = self.topic.match(topic)
        if wildcards is None:
            found = f"found another topic, expected one that fits {self.topic.plain}"
            raise InvalidEvent("", found)
        found, said = self._payload(payload)
        return Scope(topic=topic, wildcards=wildcards, payload=found, said=said)

    def _payload(self, payload: bytes) -> tuple[Json, str]:
        """What the templates read, and the letters of a bare payload."""
        try:
            if self.reads == "json":
                return jsontext.loads(payload), ""
            said = payload.decode("utf-8-sig")
        except jsontext.NotJson as error:
            raise InvalidEvent("", str(error)) from None
        except UnicodeDecodeError as error:
            found = f"found bytes that are no UTF-8 at {error.start}, expected a text"
            raise InvalidEvent("", found) from None
        return (bare(said), said) if self.reads == "value" else (None, "")

    def _draft(self, scope: Scope) -> Draft:
        """What the rule makes of a message. Raises InvalidEvent."""
        event: dict[str, Any] = {"name": NAMELESS}
        for key, template in self.texts.items():
            event[key] = text(template, scope, key)
        event["params"] = self.params.fill(scope, amounts(event["name"]))
        properties = self.user_properties.fill(scope, "user_properties")
        event["user_properties"] = {name: _property(v, name) for name, v in properties.items()}
        stream = event.get("stream")
        if stream is not None and stream not in self.streams:
            # The name came with the message: it may be an id that went astray.
            raise InvalidEvent("stream", f"found another text, expected {self._known_streams()}")
        made = draft(event, "", KEYS)
        own_time = self._time(scope)
        time_us = made.time_us if own_time is None else own_time
        return replace(made, time_us=time_us, local_time=self.clock == "device")

    def _time(self, scope: Scope) -> int | None:
        """When it happened, by the publisher's clock; None if the mapping or message does not say."""
        found = value(self.time, scope, TIME) if self.time else None
        if found is None:
            return None
        try:
            # A clock of this device that was never set is corrected; nobody corrects another's.
            return read_time(found, early=self.clock == "device")
        except NoTime as error:
            raise InvalidEvent(TIME, str(error)) from None

    def _known_streams(self) -> str:
        return f"one of {', '.join(sorted(self.streams))}" if self.streams else "a configured one"


def _reads(placeholders: Iterable[Placeholder]) -> Literal["json", "value"] | None:
    reads = {each.reads for each in placeholders}
    if reads & {"json", "item"}:
        return "json"
    return "value" if "value" in reads else None


def _without(document: Json, path: tuple[str, ...]) -> Json:
    """A document without what stands there."""
    first, *rest = path
    if isinstance(document, list):
        return [
            _without(item, tuple(rest)) if rest and str(index) == first else item
            for index, item in enumerate(document)
            if rest or str(index) != first
        ]
    if not isinstance(document, dict) or first not in document:
        return document
    if rest:
        return {**document, first: _without(document[first], tuple(rest))}
    return {key: inner for key, inner in document.items() if key != first}


def _property(value: Json, name: str) -> dict[str, Json]:
    """A user property as GA4 takes it."""
    if isinstance(value, dict | list):
        found = f"found {kind_of(value)}, expected a text, a number, true or false"
        raise InvalidEvent(f"user_properties.{name}", found)
    return {"value": value}


def _put_under(said: Draft, made: Draft) -> Draft:
    """An event with what the rule made where it says nothing itself."""
    return replace(
        said,
        params=jsontext.frozen({**made.params, **said.params}),
        sender=_sender(said, made),
        session=said.session or made.session,
        actor=said.actor or made.actor,
        priority=made.priority if said.priority is None else said.priority,
        stream=said.stream or made.stream,
        time_us=made.time_us if said.time_us is None else said.time_us,
        local_time=made.local_time and said.local_time,
        client_key=said.client_key or made.client_key,
    )


def _sender(said: Draft, made: Draft) -> Sender:
    """Who sends. One who is named keeps that name alone: two ids would be two devices."""
    named = said if said.sender.named or said.client_key else made
    return replace(
        said.sender,
        client_id=named.sender.client_id,
        app_instance_id=named.sender.app_instance_id,
        user_id=said.sender.user_id or made.sender.user_id,
        user_properties=jsontext.frozen(
            {**made.sender.user_properties, **said.sender.user_properties}
        ),
    )
