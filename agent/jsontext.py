"""JSON as it may travel: finite numbers, encodable text, bounded depth.

``json.loads`` lets through what no other program reads again (NaN, ``1e999``, lone
surrogates) and answers deep nesting with RecursionError. Whoever reads from outside reads
through here, so that everything behind can be written out again.
"""

import json
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

MAX_DEPTH = 32  # an MP body needs 5 levels; the rest is room for params that GA4 will refuse


class NotJson(ValueError):  # noqa: N818 - named after what was found, as the messages are
    """The text is no JSON that can travel; the message says what was found."""


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Read UTF-8 JSON, with or without a byte order mark. Raises NotJson."""
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise NotJson(f"found bytes that are no UTF-8 at {error.start}, expected JSON") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except NotJson:
        raise
    except ValueError as error:
        raise NotJson(f"found no JSON: {_without_document(error)}") from None
    if _deeper_than(value, max_depth):
        raise _too_deep(max_depth)
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def dumps(value: Any) -> bytes:
    """Write compact UTF-8 JSON. The value came from ``loads`` or is made of such parts."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
    ).encode()


def canonical(value: Any) -> str:
    """The same text for equal values, so that 1, 1.0 and true stay different."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain
    )


def kind_of(value: Any) -> str:
    """What was found, without its content: contents can be ids."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text" if value else "an empty text"
    if isinstance(value, int | float):
        return "a number"
    kind = "object" if isinstance(value, Mapping) else "array"
    return f"an {kind}" if value else f"an empty {kind}"


def frozen(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only view: what is shared between threads must not change."""
    return value if isinstance(value, MappingProxyType) else MappingProxyType(dict(value))


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot write JSON: found {type(value).__name__}")


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"found the number {name}, expected a finite one")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson("found a number that is too large, expected a finite one")
    return number


def _without_document(error: ValueError) -> str:
    """The message alone: the document may hold ids."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    return "a number with too many digits"


def _too_deep(limit: int) -> NotJson:
    return NotJson(f"found JSON nested deeper than {limit} levels, expected fewer")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _refuse_surrogates(value: Any) -> None:
    try:
        dumps(value)
    except UnicodeEncodeError:
        raise NotJson("found half a surrogate pair in a text, expected Unicode") from None
