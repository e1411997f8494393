"""Rules of a subscription's ``params.items``, the only param that is made of tables."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.config import readers
from agent.config.kinds import SCALAR
from agent.config.problems import MisfitError, Place, kind_of

_ITEMS: Final = "items"
_EXPECTED: Final = "a template, a table with from, or an array of tables"


def check_items(table: Mapping[str, Any]) -> Iterator[MisfitError]:
    """Refuse tables as other params than items, and in items what is no table of scalars."""
    params = table.get("params")
    for name, value in params.items() if isinstance(params, dict) else ():
        place: Place = ("params", name)
        if not isinstance(value, list | dict):
            continue
        if name != _ITEMS:
            yield MisfitError(kind_of(value), expected=SCALAR, at=place)
        elif isinstance(value, dict):
            yield from _check_table(value, place)
        else:
            yield from _check_array(value, place)


def _check_array(array: list[Any], place: Place) -> Iterator[MisfitError]:
    if not array:
        yield MisfitError(kind_of(array), expected=_EXPECTED, at=place)
    for index, table in enumerate(array):
        if isinstance(table, dict):
            yield from _check_table(table, (*place, index))
        else:
            yield MisfitError(kind_of(table), expected="a table", at=(*place, index))


def _check_table(table: Mapping[str, Any], place: Place) -> Iterator[MisfitError]:
    if not table:
        yield MisfitError("an empty table", expected="an item's params", at=place)
    for key, value in table.items():
        try:
            readers.scalar(value)
        except MisfitError as misfit:
            yield MisfitError(misfit.found, expected=SCALAR, at=(*place, key))
