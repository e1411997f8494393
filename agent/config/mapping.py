"""Rules of a subscription's mapping: its templates, and what of them goes together."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.config.problems import MisfitError, Place, bare, kind_of, quote
from agent.converters import Unfit, amount
from agent.ga4.rules.amounts import ITEM_AMOUNTS, amounts
from agent.ga4.rules.limits import ITEMS_MAX
from agent.template import Template, TemplateError, read_array
from agent.topic import TopicError, TopicFilter

PRIORITIES: Final = ("high", "normal", "low")
ACTORS: Final = ("human", "machine")
SESSIONS: Final = ("start", "end")
APP_INSTANCE_ID: Final = re.compile("[0-9A-Fa-f]{32}")
_WORDS: Final = {"priority": PRIORITIES, "actor": ACTORS, "session": SESSIONS}
_IDS: Final = ("client_id", "client_key", "app_instance_id", "user_id", "event_id")
_TEXTS: Final = ("event", "time", *_IDS, "stream", *_WORDS)
_TABLES: Final = ("params", "user_properties")
_ITEMS: Final = ("params", "items")
_FROM: Final = "from"
_ID: Final = "_id"
_PAYLOAD: Final[Mapping[str, str]] = {"value": "value", "json": "json", "item": "json"}
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
            templates[place] = Template.read(text, names, of_item=_of_item(place))
        except TemplateError as error:
            yield MisfitError(error.found, expected=error.expected, hint=error.hint, at=place)
    yield from _check_items(table)
    yield from _check_constants(templates)
    yield from _check_same(templates)
    yield from _check_types(table, templates)
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
    for place, value in _scalars(table):
        if isinstance(value, str):
            yield place, value


def _scalars(table: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Params, user properties and what items are made of, with their places."""
    for key in _TABLES:
        inner = table.get(key)
        for name, value in inner.items() if isinstance(inner, dict) else ():
            if not isinstance(value, dict | list):
                yield (key, name), value
    for place, item in _items(table):
        for name, value in item.items():
            if name != _FROM or not _of_item((*place, name)):
                yield (*place, name), value


def _items(table: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The tables that items are made of: the one with ``from``, or those of an array."""
    params = table.get("params")
    said = params.get("items") if isinstance(params, dict) else None
    if isinstance(said, dict):
        yield _ITEMS, said
    for index, item in enumerate(said) if isinstance(said, list) else ():
        if isinstance(item, dict):
            yield (*_ITEMS, index), item


def _of_item(place: Place) -> bool:
    """Whether it stands in the one table that is filled with each element of an array."""
    return len(place) == len(_ITEMS) + 1 and place[: len(_ITEMS)] == _ITEMS


def _check_items(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    for place, item in _items(table):
        if place == _ITEMS and item:
            yield from _check_from(item)
        elif _FROM in item:
            expected = "one table in place of the array: items = { from = …, item_id = … }"
            yield MisfitError("from in an array of tables", expected=expected, at=place)
        if place == (*_ITEMS, ITEMS_MAX):
            yield MisfitError("more tables", expected=f"at most {ITEMS_MAX} items", at=_ITEMS)


def _check_from(item: Mapping[str, Any]) -> Iterator[MisfitError]:
    said = item.get(_FROM)
    if said is None:
        yield MisfitError(
            "a table without from",
            expected='from = "json.ARRAY" in it, the field with an element for each item',
            hint="a single item is an array of one table: items = [{ item_id = … }]",
            at=_ITEMS,
        )
        return
    at = (*_ITEMS, _FROM)
    if not isinstance(said, str):
        yield MisfitError(kind_of(said), expected='a field such as "json.products"', at=at)
        return
    try:
        read_array(said)
    except TemplateError as error:
        yield MisfitError(error.found, expected=error.expected, hint=error.hint, at=at)
    if len(item) == 1:
        yield MisfitError("from alone", expected='beside it item_id = "{item.NAME}"', at=_ITEMS)


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


def _check_same(templates: _Templates) -> Iterator[MisfitError]:
    """Refuse what would be the same in all messages, and must not be."""
    time, key = templates.get(("time",)), templates.get(("client_key",))
    if time and time.constant:
        expected = 'a field of the message, such as "{json.time}"'
        yield MisfitError("the same time for all messages", expected=expected, at=("time",))
    if key and key.constant:
        expected = (
            'something of the message in it, such as "{json.card}"; client_id takes a fixed id'
        )
        found = "the same client_key for all messages"
        yield MisfitError(found, expected=expected, at=("client_key",))


def _check_types(table: Mapping[str, Any], templates: _Templates) -> Iterator[MisfitError]:
    """Refuse fixed values that are no amounts or no ids where these are needed."""
    event = templates.get(("event",))
    of_event = amounts(event.constant if event else None)
    for place, value in _scalars(table):
        template = templates.get(place)
        fixed = (template and template.constant) if isinstance(value, str) else value
        name = str(place[-1])
        if fixed is None:
            continue
        if name.endswith(_ID) and isinstance(fixed, bool | float):
            expected = f"a text, because {bare(name)} is an id"
            yield MisfitError(kind_of(fixed), expected=expected, at=place)
        if place[0] == "params" and name in (ITEM_AMOUNTS if place[1] == "items" else of_event):
            yield from _check_amount(fixed, place)


def _check_amount(fixed: Any, place: Place) -> Iterator[MisfitError]:
    try:
        amount(fixed)
    except Unfit as error:
        yield MisfitError(error.found, expected=error.expected, at=place)


def _check_payload(templates: _Templates) -> Iterator[MisfitError]:
    """Refuse to read one payload in two ways: one of the templates could never be filled."""
    first = ""
    for place, template in templates.items():
        for reads in (_PAYLOAD.get(each.reads) for each in template.placeholders):
            if reads is None:
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
    if event_id and not any(each.reads in _PAYLOAD for each in event_id.placeholders):
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
