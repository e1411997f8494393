"""The "Try it" lines in the comments of a configuration, and the configuration made local.

In a comment, ``$`` is a command and ``>`` is what GA4 gets for the command above it: an event's
name and params, and where they are not the device's and the first stream's, whose it is
(``client_id``) and which stream's it is (``stream``). A line that stands deeper continues the one
above it. What the agent adds to each event by itself is not said (``ADDED``).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LINE = re.compile(r"^#   (?:([$>]) (.*)|  +(\S.*)|([1-9])\. (.*))$")

ADDED = frozenset(("event_id", "session_id", "engagement_time_msec"))


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the events that it becomes."""

    command: str
    promised: tuple[Mapping[str, Any], ...]


def steps(text: str) -> list[Step]:
    """The commands of a file, each with what it promises, in their order."""
    found: list[tuple[str, list[Any]]] = []
    for mark, said in _marked(text):
        if mark == "$":
            found.append((said, []))
        elif mark == ">":
            found[-1][1].append(json.loads(said))
    return [Step(command, tuple(promised)) for command, promised in found]


def own_params(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event's params without what the agent adds by itself."""
    return {name: v for name, v in event.get("params", {}).items() if name not in ADDED}


def stage(text: str) -> list[str]:
    """The numbered commands of a file, which go on running."""
    return [said for mark, said in _marked(text) if mark.isdigit()]


def _marked(text: str) -> Iterator[tuple[str, str]]:
    """Mark and text of each, its further lines included."""
    mark, lines = "", []
    for line in [*text.splitlines(), ""]:
        match = LINE.match(line)
        if match and match[3] and mark:
            lines.append(match[3])
            continue
        if mark:
            yield mark, "\n".join(lines)
        mark, lines = (match[1] or match[4] or "", [match[2] or match[5]]) if match else ("", [])


def with_keys(text: str, table: str, **values: object) -> str:
    """A configuration with other values of keys in a table (``""``: before all tables).

    The table is made if it is not there.
    """
    first, *tables = re.split(r"(?m)^(?=\[)", text)
    said = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    if not table:
        return "".join([_without(first, values), said, *tables])
    head = f"[{table}]\n"
    if not any(each.startswith(head) for each in tables):
        return f"{text}\n{head}{said}"
    return first + "".join(
        head + said + _without(each.removeprefix(head), values) if each.startswith(head) else each
        for each in tables
    )


def _without(table: str, keys: Mapping[str, object]) -> str:
    return re.sub(rf"(?m)^({'|'.join(keys)}) = .*\n", "", table)
