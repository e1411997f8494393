"""Keys that stand twice in one object of a JSON text: reading it keeps the last without a word."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from agent.ga4.validate import MOST
from agent.ga4.violation import Code, Place, Rule, Violation


class _Repeating(dict[str, Any]):
    """An object whose text has some keys more than once."""

    repeated: tuple[str, ...] = ()


def duplicates(text: bytes) -> tuple[Violation, ...]:
    """The keys that are repeated in a text which ``jsontext.loads`` has read; the first ``MOST``."""
    value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_object)
    return tuple(islice(_found(value, ()), MOST))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    times = Counter(key for key, _ in pairs)
    marked = _Repeating(value)
    marked.repeated = tuple(key for key, number in times.items() if number > 1)
    return marked


def _found(value: Any, place: Place) -> Iterator[Violation]:
    if isinstance(value, _Repeating):
        for key in value.repeated:
            yield Violation(
                place=(*place, key),
                rule=Rule.DUPLICATE,
                code=Code.NAME_DUPLICATED,
                description="found this key more than once in its object, expected it once",
            )
    for step, inner in _inside(value):
        yield from _found(inner, (*place, step))


def _inside(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()
