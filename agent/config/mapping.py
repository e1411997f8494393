"""Rules of a subscription's mapping: its templates, and what of them goes together."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.config.problems import MisfitError, Place, quote
from agent.template import Template, TemplateError
from agent.topic import TopicError, TopicFilter

PRIORITIES: Final = ("high", "normal", "low")
ACTORS: Final = ("human", "machine")
SESSIONS: Final = ("start", "end")
APP_INSTANCE_ID: Final = re.compile("[0-9A-Fa-f]{32}")
_WORDS: Final = {"priority": PRIORITIES, "actor": ACTORS, "session": SESSIONS}
_IDS: Final = ("client_id", "app_instance_id", "user_id", "event_id")
_TEXTS: Final = ("event", *_IDS, "stream", *_WORDS)
_TABLES: Final = ("params", "user_properties")
_Templates = Mapping[Place, Template]


def one_of(words: tuple[str, ...]) -> str:
    """What is expected where only these words count."""
    return " or ".join(f'"{word}"' for word in words)


def plain_filter(topic: str) -> str:
    """What the broker is told; the text itself if it is no filter."""
    try:
        return TopicFilter.read(topic).plain
    except TopicError:
        return topic


def constant(text: str) -> str | None:
    """A text without placeholders; None for one with some, and for one that is no template."""
    try:
        return Template.read(text, None).constant
    except TemplateError:
        return None


def check_mapping(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    """Refuse templates that no message could fill, and keys that make no sense together."""
    names = _names(table.get("topic"))
    templates: dict[Place, Template] = {}
    for place, text in _texts(table):
        try:
            templates[place] = Template.read(text, names)
        except TemplateError as error:
            yield MisfitError(error.found, expected=error.expected, hint=error.hint, at=place)
    yield from _check_constants(templates)
    yield from _check_payload(templates)
    if "event" in table:
        yield from _check_event(templates)
    else:
        yield from _check_without_event(templates)


def _names(topic: object) -> tuple[str, ...] | None:
    """The names that the topic gives; None if it is no topic, so that this is told only once."""
    try:
        return TopicFilter.read(topic).names if isinstance(topic, str) else None
    except TopicError:
        return None


def _texts(table: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Every text that may hold placeholders, with its place."""
    for key in _TEXTS:
        if isinstance(table.get(key), str):
            yield (key,), table[key]
    for key in _TABLES:
        inner = table.get(key)
        for name, value in inner.items() if isinstance(inner, dict) else ():
            if isinstance(value, str):
                yield (key, name), value


def _check_constants(templates: _Templates) -> Iterator[MisfitError]:
    for key, words in _WORDS.items():
        template = templates.get((key,))
        word = template.constant if template else None
        if word is not None and word not in words:
            yield MisfitError(quote(word), expected=one_of(words), at=(key,))
    installation = templates.get(("app_instance_id",))
    fixed = installation.constant if installation else None
    if fixed is not None and not APP_INSTANCE_ID.fullmatch(fixed):
        found = "another text (not shown)"
        yield MisfitError(found, expected="32 hexadecimal digits", at=("app_instance_id",))


def _check_payload(templates: _Templates) -> Iterator[MisfitError]:
    """Refuse to read one payload in two ways: one of the templates could never be filled."""
    first = ""
    for place, template in templates.items():
        for reads in (each.reads for each in template.placeholders):
            if reads not in ("value", "json"):
                continue
            first = first or reads
            if reads != first:
                yield MisfitError(
                    "{value} and {json.…} in one mapping",
                    expected="one of the two: a payload is a bare value or JSON",
                    at=place,
                )
                return


def _check_event(templates: _Templates) -> Iterator[MisfitError]:
    for each in templates[("event",)].placeholders if ("event",) in templates else ():
        if each.optional:
            yield MisfitError(
                f"{{{each.text}?}}",
                expected=f"{{{each.text}}}, because an event cannot do without a name",
                at=("event",),
            )
    event_id = templates.get(("event_id",))
    if event_id and not any(each.reads in ("value", "json") for each in event_id.placeholders):
        yield MisfitError(
            "the same event_id for different messages",
            expected="something of the payload in it, such as {json.id}",
            at=("event_id",),
        )


def _check_without_event(templates: _Templates) -> Iterator[MisfitError]:
    for place, template in templates.items():
        if any(each.reads == "value" for each in template.placeholders):
            yield MisfitError(
                "{value} without event",
                expected="event beside it, because without it the payload is JSON events",
                at=place,
            )
    if ("event_id",) in templates:
        yield MisfitError(
            "an event_id without event",
            expected="event beside it, because JSON events bring their own ids",
            at=("event_id",),
        )
