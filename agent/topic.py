"""MQTT topic filters with named wildcards: ``kiosk/+site/#rest``. Pure, no I/O.

``+site`` is ``+`` and ``#rest`` is ``#``, with a name under which a template finds what stood
there. The broker is only ever told the plain filter.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TOPIC_MAX: Final = 65_535  # bytes of an MQTT string
RESERVED: Final = ("json", "item", "value", "topic")  # what templates call other things
_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_WILDCARDS: Final = ("+", "#")
_SHARE: Final = "$share"


class TopicError(ValueError):
    """A text that is no topic filter; the message says what is expected instead."""


@dataclass(frozen=True, slots=True)
class TopicFilter:
    """What is subscribed, and what its wildcards are called.

    ``plain``: as the broker takes it. ``levels``: its levels without ``$share/GROUP/``.
    ``labels``: for each level the name of its wildcard, "" where there is none.
    """

    plain: str
    levels: tuple[str, ...]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "TopicFilter":
        """Read a filter with or without names. Raises TopicError."""
        group, filter_ = _split(text)
        if flaw := _flaw(text, group, filter_):
            raise TopicError(flaw)
        said = filter_.split("/")
        levels = tuple(level[0] if level.startswith(_WILDCARDS) else level for level in said)
        labels = tuple(level[1:] if level.startswith(_WILDCARDS) else "" for level in said)
        return cls(group + "/".join(levels), levels, labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the wildcards, in their order."""
        return tuple(filter(None, self.labels))

    def match(self, topic: str) -> dict[str, str] | None:
        """What stands at each named wildcard; None if the topic does not fit.

        ``#`` stands for all the levels that remain, with the slashes between them, and for an
        empty text when none remain.
        """
        if topic.startswith("$") and self.levels[0] in _WILDCARDS:
            return None  # wildcards do not reach into $SYS and its like (MQTT 5, 4.7.2)
        said = topic.split("/")
        fixed = [level for level in self.levels if level != "#"]
        whole = len(fixed) == len(self.levels)
        if len(said) < len(fixed) or (whole and len(said) > len(fixed)):
            return None
        if any(level not in ("+", found) for level, found in zip(fixed, said, strict=False)):
            return None
        values = [*said[: len(fixed)], "/".join(said[len(fixed) :])]
        return {name: value for name, value in zip(self.labels, values, strict=False) if name}


def _split(text: str) -> tuple[str, str]:
    """``$share/GROUP/``, if the text begins so, and the filter."""
    if text.partition("/")[0] != _SHARE:
        return "", text
    _, group, filter_ = (*text.split("/", 2), "", "")[:3]
    return f"{_SHARE}/{group}/", filter_


def _flaw(text: str, group: str, filter_: str) -> str:
    """What is expected instead of this text, or ""."""
    if "\0" in text or len(text.encode()) > TOPIC_MAX:
        return "no NUL and 65535 bytes at most"
    if group and (group == f"{_SHARE}//" or set(group) & set(_WILDCARDS) or not filter_):
        return "$share/GROUP/FILTER, the group without + and #"
    if not filter_:
        return "a topic or a filter such as kiosk/+/events"
    *before, last = filter_.split("/")
    if any("#" in level for level in before) or "#" in last[1:]:
        return "# as the whole last level, as in kiosk/#"
    if any("+" in level[1:] for level in (*before, last)):
        return "+ as a whole level, as in kiosk/+/events"
    levels = (*before, last)
    return _flaw_of_names([level[1:] for level in levels if level.startswith(_WILDCARDS)])


def _flaw_of_names(labels: Sequence[str]) -> str:
    names = [name for name in labels if name]
    if not all(_NAME.fullmatch(name) for name in names):
        return "names of letters, digits and _ behind + and #, as in kiosk/+site/#rest"
    if set(names) & set(RESERVED):
        return f"other names of wildcards than {', '.join(RESERVED)}"
    if len(set(names)) < len(names):
        return "each name of a wildcard once"
    return ""
