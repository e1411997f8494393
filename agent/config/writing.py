"""A configuration as a text again: what is in effect, defaults included, without secrets."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tomli_w

from agent.config.readers import Reader
from agent.config.settings import Config, MqttSettings
from agent.config.structure import reader_of


def document(config: Config) -> dict[str, Any]:
    """Tables and values as a file would say them.

    Settings without a value or without effect and tables without settings are left out.
    """
    return _table(config)


def text(config: Config) -> str:
    """The same as TOML, which `parse` reads unless an id or a password had to be left out."""
    return tomli_w.dumps(document(config), indent=2)


def _table(settings: Any) -> dict[str, Any]:
    hints = get_type_hints(type(settings), include_extras=True)
    values = {key.name: getattr(settings, key.name) for key in fields(settings)}
    written = {key: _value(v, hints[key]) for key, v in values.items() if v is not None}
    idle = _without_effect(settings)
    return {key: value for key, value in written.items() if value != {} and key not in idle}


def _without_effect(settings: Any) -> frozenset[str]:
    """Keys that a file with these settings must not have."""
    old = isinstance(settings, MqttSettings) and settings.protocol == "3.1.1"
    return frozenset(("session_expiry",) if old else ())


def _value(value: Any, hint: Any) -> Any:
    """``hint``: the annotation that says how the value is read, and so how it is written."""
    if is_dataclass(value):
        return _table(value)
    reader = reader_of(hint)
    if reader and not reader.outer:
        return _exactly(value, reader)
    inner = get_args(get_args(hint)[0]) if get_origin(hint) is Annotated else get_args(hint)
    if isinstance(value, Mapping):
        return {key: _value(v, inner[-1]) for key, v in value.items()}
    if isinstance(value, tuple):
        return [_value(v, inner[0]) for v in value]
    return value


def _exactly(value: Any, reader: Reader) -> Any:
    """As people write it, unless that rounds: then in the smallest unit."""
    written = reader.write(value)
    if type(value) not in (int, float) or reader.read(written) == value:
        return written
    if type(value) is int:
        return f"{value} B"
    return f"{(Decimal(repr(value)) * 1000).normalize():f} ms"
