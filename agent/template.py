"""Texts with placeholders, which an MQTT message fills. Pure, no I/O.

``{site}``: a named wildcard of the topic. ``{json.price}``, ``{json.items.0.price}``: a field of
the JSON payload; ``{json.price?}`` may be missing. ``{item.price}``: a field of the element that
becomes an item, ``{item}`` the element itself. ``{value}``: a bare payload. ``{topic}``: the whole
topic. ``{{`` and ``}}`` are braces. ``{json.cents:div100}`` converts (`agent.converters`), with the
question mark of a field that may be missing before the colon: ``{json.cents?:div100}``.

What a message holds is never repeated in an error: it may be an id.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agent import jsontext
from agent.converters import CONVERTERS, Unfit

Json = Any
Reads = Literal["wildcard", "topic", "value", "json", "item"]

_TOKEN: Final = re.compile(r"(\{\{|\}\})|\{([^{}]*)\}|([{}])|([^{}]+)")
_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")
_SHOWN: Final = 60  # characters of a wrong placeholder that a message repeats


class TemplateError(ValueError):
    """A text that is no template: what was found in it, and what would do."""

    def __init__(self, found: str, *, expected: str, hint: str = "") -> None:
        super().__init__(f"found {found}, expected {expected}{'; ' * bool(hint)}{hint}")
        self.found = found
        self.expected = expected
        self.hint = hint


class FillError(ValueError):
    """A message that cannot fill a template; ``missing``: because a field is not there."""

    def __init__(self, found: str, *, expected: str, missing: bool = False) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.missing = missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a message fills templates with.

    ``wildcards``: what stood in the topic, by name. ``payload``: for ``{json.…}`` the parsed JSON,
    for ``{value}`` what ``bare`` made of the text ``said``; no subscription uses both. ``item``:
    the element of an array that becomes an item.
    """

    topic: str
    wildcards: Mapping[str, str]
    payload: Json = None
    said: str = ""
    item: Json = None


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One placeholder.

    ``path``: the steps behind ``json`` or ``item``, or the name of a wildcard. ``converter``: what
    is made of what it finds, "" for nothing.
    """

    text: str
    reads: Reads
    path: tuple[str, ...] = ()
    optional: bool = False
    converter: str = ""

    def find(self, scope: Scope) -> Json:
        """What stands there; None for a field that is missing or null."""
        match self.reads:
            case "wildcard":
                return scope.wildcards[self.path[0]]
            case "topic":
                return scope.topic
            case "value":
                return scope.payload
            case "json":
                return _walk(scope.payload, self.path)
            case "item":
                return _walk(scope.item, self.path)

    def require(self, scope: Scope) -> Json:
        """What stands there, converted; None only if it may be missing. Raises FillError."""
        found = self.find(scope)
        if found is None and not self.optional:
            maybe = f"{{{self.text}?{':' * bool(self.converter)}{self.converter}}}"
            expected = f"a value, or {maybe} in the mapping for one that may be missing"
            raise FillError(f"nothing at {self.text}", expected=expected, missing=True)
        if found is None or not self.converter:
            return found
        try:
            return CONVERTERS[self.converter](self._letters(scope) or found)
        except Unfit as error:
            raise FillError(f"{error.found} at {self.text}", expected=error.expected) from None

    def require_text(self, scope: Scope) -> Json:
        """The same; of a bare payload its very letters, so that 007 and 2.50 keep their zeros."""
        return (not self.converter and self._letters(scope)) or self.require(scope)

    def _letters(self, scope: Scope) -> str:
        """A bare payload as it was said; "" for any other placeholder.

        Around a number there may be blanks, which JSON does not count.
        """
        if self.reads != "value":
            return ""
        return scope.said if isinstance(scope.payload, str) else scope.said.strip()


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled text."""

    parts: tuple[str | Placeholder, ...]

    @classmethod
    def read(
        cls, text: str, wildcards: Collection[str] | None = (), *, of_item: bool = False
    ) -> "Template":
        """Compile a text. ``wildcards``: the names that the topic gives; None if it is not known.

        ``of_item``: ``{item.…}`` may stand in it. Raises TemplateError.
        """
        return cls(tuple(_joined(_parts(text, wildcards, of_item=of_item))))

    @property
    def constant(self) -> str | None:
        """The text of a template without placeholders; None for any other."""
        return "".join(map(str, self.parts)) if not self.placeholders else None

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """The placeholders, in their order."""
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    def value(self, scope: Scope) -> Json:
        """The filled template; one that is a single placeholder keeps the kind of its value.

        None: leave it out, because a field that may be missing is. Raises FillError.
        """
        match self.parts:
            case (Placeholder() as only,):
                return only.require(scope)
        return self._joined(scope, {bool, int, float}, "a text, a number, true or false")

    def text(self, scope: Scope) -> str | None:
        """The filled template as a text; whole numbers as their digits.

        No other number: an id such as 123.450 has lost its last digit by then. None and
        FillError as for ``value``.
        """
        alone = len(self.parts) == 1
        return self._joined(scope, {int} if alone else {int, bool}, "a text")

    def _joined(self, scope: Scope, kinds: Collection[type], expected: str) -> str | None:
        texts = []
        for part in self.parts:
            text = part if isinstance(part, str) else _spelled(part, scope, kinds, expected)
            if text is None:
                return None
            texts.append(text)
        return "".join(texts)


def bare(text: str) -> Json:
    """What ``{value}`` stands for: a JSON number, true or false; else the text as it is."""
    try:
        value = jsontext.loads(text.encode())
    except jsontext.NotJson:
        return text
    return value if isinstance(value, bool | int | float) else text


def _spelled(
    placeholder: Placeholder, scope: Scope, kinds: Collection[type], expected: str
) -> str | None:
    value = placeholder.require_text(scope)
    if value is None or isinstance(value, str):
        return value
    if type(value) not in kinds:
        raise FillError(f"{_kind(value)} at {placeholder.text}", expected=expected)
    return jsontext.dumps(value).decode()


def _kind(value: Json) -> str:
    """Name what a message held without showing it."""
    kinds = {bool: "true or false", int: "a number", float: "a number with a fraction"}
    return kinds.get(type(value), "an array" if isinstance(value, list) else "an object")


def _walk(value: Json, path: tuple[str, ...]) -> Json:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


# ---------------------------------------------------------------- compiling


def read_array(text: str) -> Placeholder:
    """The field that holds the elements of items: ``json.products``, with or without braces.

    Raises TemplateError.
    """
    inner = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    name = inner.removesuffix("?")
    first, *path = name.split(".")
    if first != "json" or not all(path):
        expected = "the field with the array, such as json.products, or json for the whole payload"
        raise TemplateError(_shown(inner), expected=expected)
    return Placeholder(name, "json", tuple(path), inner.endswith("?"))


def _parts(
    text: str, wildcards: Collection[str] | None, *, of_item: bool
) -> Iterator[str | Placeholder]:
    for match in _TOKEN.finditer(text):
        brace, inner, stray, plain = match.groups()
        if brace:
            yield brace[0]
        elif stray:
            raise _stray(stray)
        elif inner is not None:
            yield _placeholder(inner, wildcards, of_item=of_item)
        else:
            yield plain


def _joined(parts: Iterator[str | Placeholder]) -> Iterator[str | Placeholder]:
    """The same with neighbouring texts as one."""
    held = ""
    for part in parts:
        if isinstance(part, str):
            held += part
            continue
        if held:
            yield held
        yield part
        held = ""
    if held:
        yield held


def _stray(brace: str) -> TemplateError:
    if brace == "{":
        return TemplateError(
            "{ without }", expected="a placeholder such as {json.NAME}, or {{ for a brace"
        )
    return TemplateError(
        "} without {", expected="a placeholder such as {json.NAME}, or }} for a brace"
    )


def _placeholder(inner: str, wildcards: Collection[str] | None, *, of_item: bool) -> Placeholder:
    # A field's name may have a colon too: only the last one is a converter's.
    field, colon, converter = inner.rpartition(":")
    field = field if colon else inner
    if colon:
        _refuse_unknown(converter, field, inner)
    name, optional = field.removesuffix("?"), field.endswith("?")
    found = _field(name, inner, of_item=of_item) or _simple(name, wildcards)
    if found is None:
        raise _unknown(inner, name, wildcards or ())
    if optional and found.reads not in ("json", "item"):
        raise TemplateError(_shown(inner), expected=f"{{{name}}}: only a field can be missing")
    return replace(found, optional=optional, converter=converter if colon else "")


def _field(name: str, inner: str, *, of_item: bool) -> Placeholder | None:
    first, *path = name.split(".")
    match first:
        case "json":
            if not path or not all(path):
                expected = "a field such as {json.price} or {json.items.0.price}"
                raise TemplateError(_shown(inner), expected=expected)
            return Placeholder(name, "json", tuple(path))
        case "item" if not of_item:
            expected = (
                "a field such as {json.price}, because {item.…} is only known inside of items"
            )
            hint = 'items = { from = "json.ARRAY", item_id = "{item.NAME}" }'
            raise TemplateError(_shown(inner), expected=expected, hint=hint)
        case "item":
            if not all(path):
                raise TemplateError(
                    _shown(inner), expected="{item}, or a field such as {item.price}"
                )
            return Placeholder(name, "item", tuple(path))
    return None


def _refuse_unknown(converter: str, field: str, inner: str) -> None:
    """Refuse a converter that there is not."""
    if converter in CONVERTERS:
        return
    known = ", ".join(f":{name}" for name in CONVERTERS)
    bare = converter.removesuffix("?")
    if bare in CONVERTERS:
        raise TemplateError(_shown(inner), expected=f"the ? before the colon: {{{field}?:{bare}}}")
    close = difflib.get_close_matches(bare.lower()[:_SHOWN], CONVERTERS, n=1)
    hint = f"did you mean :{close[0]}?" if close else ""
    raise TemplateError(_shown(inner), expected=f"a converter that there is, {known}", hint=hint)


def _simple(name: str, wildcards: Collection[str] | None) -> Placeholder | None:
    if name == "value":
        return Placeholder(name, "value")
    if name == "topic":
        return Placeholder(name, "topic")
    if name in wildcards if wildcards is not None else name.isidentifier():
        return Placeholder(name, "wildcard", (name,))
    return None


def _unknown(inner: str, name: str, wildcards: Collection[str]) -> TemplateError:
    known = [*wildcards, "json.…", "value", "topic"]
    close = difflib.get_close_matches(name[:_SHOWN], [*wildcards, "value", "topic"], n=1)
    hint = f"did you mean {close[0]}?" if close else ""
    return TemplateError(_shown(inner), expected=f"one of {', '.join(known)}", hint=hint)


def _shown(inner: str) -> str:
    text = f"{{{inner}}}" if len(inner) <= _SHOWN else f"{{{inner[:_SHOWN]}…}}"
    return text if text.isprintable() else repr(text)
