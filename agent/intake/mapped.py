"""Params and user properties that a mapping makes of a message, with their types.

A template that is one placeholder keeps the kind of what it finds. Two kinds of names know better:
those that end in ``_id`` are texts, so that 007 stays 007, and amounts are numbers or refused.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agent import converters
from agent.converters import Unfit
from agent.event import InvalidEvent, Json
from agent.ga4.rules.amounts import ITEM_AMOUNTS
from agent.ga4.rules.limits import ITEMS_MAX
from agent.jsontext import kind_of
from agent.template import FillError, Placeholder, Scope, Template, read_array

Scalar = str | int | float
Said = Scalar | Mapping[str, Scalar] | Iterable[Mapping[str, Scalar]]
"""A param as the configuration says it: for items a table or tables."""

FROM: Final = "from"  # the key of a table of items that names the array
_ID: Final = "_id"
_HINT: Final = "a field in cents fits as {json.FIELD:div100}"


@dataclass(frozen=True, slots=True)
class Table:
    """Compiled templates by name, and numbers, true and false as the configuration says them."""

    values: Mapping[str, Template | int | float]

    @classmethod
    def read(
        cls,
        values: Mapping[str, Scalar],
        wildcards: Collection[str] | None,
        *,
        of_item: bool = False,
    ) -> "Table":
        """Compile them. Raises TemplateError."""
        return cls(
            {
                name: Template.read(value, wildcards, of_item=of_item)
                if isinstance(value, str)
                else value
                for name, value in values.items()
            }
        )

    @property
    def placeholders(self) -> Iterator[Placeholder]:
        """What they read."""
        for value in self.values.values():
            if isinstance(value, Template):
                yield from value.placeholders

    def fill(self, scope: Scope, place: str, amounts: Collection[str] = ()) -> dict[str, Json]:
        """The values by name, without those that are left out. Raises InvalidEvent.

        ``place``: where the table stands in the event. ``amounts``: names that must be numbers.
        """
        filled = {
            name: _value(value, scope, f"{place}.{name}", amount=name in amounts)
            for name, value in self.values.items()
        }
        return {name: value for name, value in filled.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Items:
    """The param ``items``: one item of each table; with ``source``, of each element there."""

    tables: tuple[Table, ...]
    source: Placeholder | None = None

    @classmethod
    def read(cls, said: Any, wildcards: Collection[str] | None) -> "Items":
        """Compile a table with ``from``, or tables. Raises TemplateError."""
        if not isinstance(said, Mapping):
            return cls(tuple(Table.read(table, wildcards) for table in said))
        values = {name: value for name, value in said.items() if name != FROM}
        table = Table.read(values, wildcards, of_item=True)
        return cls((table,), read_array(said[FROM]))

    @property
    def placeholders(self) -> Iterator[Placeholder]:
        """What they read."""
        if self.source is not None:
            yield self.source
        for table in self.tables:
            yield from table.placeholders

    def fill(self, scope: Scope, place: str) -> list[Json] | None:
        """The items; None for an array that may be missing and is. Raises InvalidEvent."""
        if self.source is None:
            filled = [
                table.fill(scope, f"{place}[{index}]", ITEM_AMOUNTS)
                for index, table in enumerate(self.tables)
            ]
            return [item for item in filled if item] or None  # all of it may be missing
        [table] = self.tables
        elements = self._elements(self.source, scope, place)
        return [
            table.fill(replace(scope, item=element), f"{place}[{index}]", ITEM_AMOUNTS)
            for index, element in enumerate(elements)
        ] or None

    @staticmethod
    def _elements(source: Placeholder, scope: Scope, place: str) -> list[Json]:
        try:
            found = source.require(scope)
        except FillError as error:
            raise invalid(error, place) from None
        if source.optional and found in (None, []):
            return []
        expected = f"an array of 1 to {ITEMS_MAX} elements"
        if not isinstance(found, list) or not found:
            missing = f"found {kind_of(found)} at {source.text}, expected {expected}"
            raise InvalidEvent(place, missing)
        if len(found) > ITEMS_MAX:
            too_many = f"found {len(found)} elements at {source.text}, expected {expected}"
            raise InvalidEvent(place, too_many, "EXCEEDED_MAX_ENTITIES")
        return found


@dataclass(frozen=True, slots=True)
class Params:
    """The params of a mapping; ``items`` if they are made of tables."""

    plain: Table
    items: Items | None = None

    @classmethod
    def read(cls, said: Mapping[str, Said], wildcards: Collection[str] | None) -> "Params":
        """Compile them. Raises TemplateError."""
        plain = {name: v for name, v in said.items() if isinstance(v, str | int | float)}
        items = None if "items" in plain else said.get("items")
        made = None if items is None else Items.read(items, wildcards)
        return cls(Table.read(plain, wildcards), made)

    @property
    def placeholders(self) -> Iterator[Placeholder]:
        """What they read."""
        yield from self.plain.placeholders
        if self.items is not None:
            yield from self.items.placeholders

    def fill(self, scope: Scope, amounts: Collection[str]) -> dict[str, Json]:
        """The params of an event, ``amounts`` as numbers. Raises InvalidEvent."""
        params = self.plain.fill(scope, "params", amounts)
        items = self.items.fill(scope, "params.items") if self.items else None
        return params if items is None else {**params, "items": items}


def text(template: Template, scope: Scope, place: str) -> str | None:
    """A filled template where the event needs a text. Raises InvalidEvent."""
    try:
        return template.text(scope)
    except FillError as error:
        raise invalid(error, place) from None


def value(template: Template, scope: Scope, place: str) -> Json:
    """A filled template with the kind of what it finds. Raises InvalidEvent."""
    try:
        return template.value(scope)
    except FillError as error:
        raise invalid(error, place) from None


def invalid(error: FillError, place: str) -> InvalidEvent:
    """What could not be filled, in the event's terms."""
    return InvalidEvent(place, str(error), "VALUE_REQUIRED" if error.missing else "VALUE_INVALID")


def _value(said: Template | float, scope: Scope, place: str, *, amount: bool) -> Json:
    if place.endswith(_ID):
        return text(said, scope, place) if isinstance(said, Template) else str(said)
    found = value(said, scope, place) if isinstance(said, Template) else said
    return _amount(found, place) if amount and found is not None else found


def _amount(found: Json, place: str) -> Json:
    try:
        return converters.amount(found)
    except Unfit as error:
        raise InvalidEvent(place, f"{error}; {_HINT}") from None
