"""Tables to dataclasses: cattrs walks them and collects what the readers refuse."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final, get_args, get_origin

from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from agent.config.device import ConsentSettings, DeviceSettings, HardwareSettings, LocationSettings
from agent.config.problems import MisfitError, Place, did_you_mean, kind_of
from agent.config.readers import Reader
from agent.config.rules import RULES, no_rules
from agent.config.settings import (
    Config,
    DeliverySettings,
    HttpSettings,
    LogSettings,
    MqttSettings,
    NetworkSettings,
    QueueSettings,
    SessionSettings,
    SpoolSettings,
    SubscriptionSettings,
)
from agent.config.stream import RulesSettings, StreamSettings

# ---------------------------------------------------------------- unknown keys

TABLES: Final[Mapping[type, str]] = {
    Config: "",
    StreamSettings: "[stream.NAME]",
    RulesSettings: "[stream.NAME.rules]",
    DeviceSettings: "[device]",
    ConsentSettings: "[device.consent]",
    HardwareSettings: "[device.hardware]",
    LocationSettings: "[device.location]",
    SessionSettings: "[session]",
    HttpSettings: "[http]",
    MqttSettings: "[mqtt]",
    SubscriptionSettings: "[[mqtt.subscriptions]]",
    SpoolSettings: "[spool]",
    QueueSettings: "[queue]",
    DeliverySettings: "[delivery]",
    NetworkSettings: "[network]",
    LogSettings: "[log]",
}


def _keys(table: Any) -> list[str]:
    return [key.name for key in fields(table)]


def _belongs(key: str) -> str:
    places = [place for table, place in TABLES.items() if key in _keys(table)]
    if places == [""]:
        return "this key belongs at the top of the file, before the first table"
    return f"this key belongs under {' or '.join(filter(None, places))}" if places else ""


def _elsewhere(key: str) -> str:
    """Suggest a similar key of any table."""
    for table, place in TABLES.items():
        if place and (hint := did_you_mean(key, _keys(table), likeness=0.8)):
            return f"{hint.removesuffix('?')} under {place}?"
    return ""


def _unknown_key(table: type, key: str) -> MisfitError:
    """Suggest the slip of the finger first, then the wrong table, then the distant likeness."""
    own = _keys(table)
    return MisfitError(
        "an unknown key",
        expected=f"a key of {TABLES[table] or 'the configuration'}",
        hint=did_you_mean(key, own, likeness=0.8)
        or _belongs(key)
        or did_you_mean(key, own, likeness=0.6)
        or _elsewhere(key)
        or f"the keys here are {', '.join(own)}",
    )


# ---------------------------------------------------------------- tables to dataclasses


def reader_of(kind: Any) -> Reader | None:
    """The reader that an annotation names, if it names one."""
    if get_origin(kind) is not Annotated:
        return None
    return next((note for note in get_args(kind)[1:] if isinstance(note, Reader)), None)


@functools.cache  # cattrs writes a function for each table: once is enough
def converter() -> Converter:
    """What reads tables into the dataclasses of settings.py."""
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def read(value: object, kind: Any) -> object:
        reader = reader_of(kind)
        assert reader is not None
        result = reader.read(value)
        return converter.structure(result, get_args(kind)[0]) if reader.outer else result

    converter.register_structure_hook_func(lambda kind: reader_of(kind) is not None, read)
    converter.register_structure_hook_factory(
        is_dataclass, lambda kind: _table_hook(kind, converter)
    )
    return converter


def _table_hook(table: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Read one table: its keys through cattrs, and the rules between them."""
    structure = make_dict_structure_fn(
        table,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
    )
    rules = RULES.get(table, no_rules)

    def read(value: Any, kind: Any) -> Any:
        if not isinstance(value, dict):
            raise MisfitError(kind_of(value), expected=f"a table {TABLES[table]}")
        result = None
        errors: list[Exception] = []
        try:
            result = structure(value, kind)
        except ClassValidationError as error:
            errors.extend(error.exceptions)
        errors.extend(rules(value))
        if errors:
            raise ClassValidationError(table.__name__, errors, table)
        return result

    return read


def misfits(error: BaseValidationError, place: Place) -> Iterator[tuple[Place, MisfitError]]:
    """Find every refusal in a tree of cattrs' errors, with the place that it is about."""
    for cause in error.exceptions:
        here, kind = _step(cause)
        yield from _misfits_of(cause, (*place, *here), kind)


def _misfits_of(
    cause: BaseException, place: Place, kind: Any
) -> Iterator[tuple[Place, MisfitError]]:
    reader = reader_of(kind)
    expected = reader.expected if reader else ""
    match cause:
        case BaseValidationError():
            yield from misfits(cause, place)
        case ForbiddenExtraKeysError():
            for key in sorted(cause.extra_fields):
                yield (*place, key), _unknown_key(cause.cl, key)
        case KeyError():  # the way in which cattrs reports a key without default
            yield place, MisfitError("nothing", expected=expected)
        case MisfitError():
            cause.expected = cause.expected or expected
            yield (*place, *cause.at), cause
        case _:
            raise cause


def _step(cause: BaseException) -> tuple[Place, Any]:
    """Give the key or index that cattrs noted on an error, and the type that was expected."""
    for note in getattr(cause, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,), note.type
        if isinstance(note, IterableValidationNote):
            return (note.index,), note.type
    return (), None
