"""The device's own ids: random, kept in the state directory, never from hardware.

Beside them lie salted hashes of what tells this machine from another. They are never sent; a copy
of the card in another machine is recognised by them, and makes ids of its own.
"""

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agent import atomic_file
from agent.hardware import BOARD
from agent.hardware import facts as facts_of_this_machine

log = logging.getLogger(__name__)

FILE_NAME = "identity.json"
DAMAGED = ".damaged"  # what is put in the place of .json
MADE = re.compile(r"[0-9]+\.[0-9]+")
NUMBER_MAX = 2**31 - 1
SALT_BITS = 128
MARK_BYTES = 16

Random = Callable[[int], int]  # a number from 0 up to, not including, the argument
Facts = Callable[[], Mapping[str, str]]
Machine = Literal["this", "another", "unknown"]


class NoIdentity(Exception):  # noqa: N818 - a state rather than an error
    """The state directory holds no ids that can be read; the message says which file, and why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the agent made for this device: GA4's client id, and the broker's."""

    client_id: str
    mqtt_client_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What lies in the state directory.

    ``since_us``: when the client id was made, by the wall clock, in µs since 1970. ``machine``:
    whose the ids are, judged by what can be read now.
    """

    identity: Identity
    since_us: int | None
    machine: Machine


# -- what the agent does with them ------------------------------------------------------------


def load_identity(
    directory: Path,
    *,
    wall_us: Callable[[], int],
    random: Random = secrets.randbelow,
    hardware: Facts = facts_of_this_machine,
) -> Identity:
    """The ids of this device: made at the first call, the same ever after on this machine.

    A disk that cannot be written must not keep the agent from running: it says so and goes on
    with what it has. Raises OSError when the file is there and cannot be read.
    """
    path = directory / FILE_NAME
    record = _set_aside_if_damaged(path)
    current = _current(record, hardware(), wall_us=wall_us, random=random)
    if current != record:
        try:
            _write(path, current)
        except OSError as error:
            log.error("cannot write %s: %s; it is tried again at the next start", path, error)
    return current.identity


def reset(
    directory: Path,
    *,
    wall_us: Callable[[], int],
    random: Random = secrets.randbelow,
    hardware: Facts = facts_of_this_machine,
) -> Identity:
    """A new client id, for good when this returns. Events that wait keep the old one.

    The broker's id stays: it is no visitor's, and the messages that the broker keeps for this
    device hang on it. For the owner of the state's lock only. Raises OSError: nothing changed.
    """
    path = directory / FILE_NAME
    record = _set_aside_if_damaged(path)
    current = _current(record, hardware(), wall_us=wall_us, random=random)
    identity = replace(current.identity, client_id=new_client_id(random))
    _write(path, replace(current, identity=identity, since_us=wall_us()))
    return identity


def clean(directory: Path) -> bool:
    """Remove the ids for good, before an image is taken of this machine; whether there were any.

    For the owner of the state's lock only: a daemon would go on with what it has read. Raises
    OSError.
    """
    path = directory / FILE_NAME
    there = path.exists()
    atomic_file.remove(path.with_suffix(DAMAGED))
    atomic_file.remove(path)
    return there


def look(directory: Path, *, hardware: Facts = facts_of_this_machine) -> Seen:
    """What is there, without making or changing anything. Raises NoIdentity, OSError."""
    path = directory / FILE_NAME
    try:
        record = _read(path)
    except ValueError:
        raise NoIdentity(f"{path} is damaged; the agent makes new ids at its next start") from None
    if record is None:
        raise NoIdentity(f"found no {path}; the agent makes it when it starts")
    machine = _machine(record, hardware())
    return Seen(identity=record.identity, since_us=record.since_us, machine=machine)


def new_client_id(random: Random = secrets.randbelow) -> str:
    """A client id that nobody has: two positive numbers joined by a dot.

    Both are random. Google's own second number is the time, but a clock that stands in 1970 gives
    all devices of a delivery the same one.
    """
    return f"{random(NUMBER_MAX) + 1}.{random(NUMBER_MAX) + 1}"


# -- whose they are ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What the file holds. ``marks``: by name, the salted hashes of the machine's facts."""

    identity: Identity
    since_us: int | None
    salt: str
    marks: Mapping[str, str]


def _current(
    record: _Record | None, facts: Mapping[str, str], *, wall_us: Callable[[], int], random: Random
) -> _Record:
    """The record for this machine: as it was, with what is newly known; or another."""
    if record is not None and _machine(record, facts) != "another":
        return _bound(record, facts, random)
    if record is not None:
        log.warning(
            "this is another machine than the one that the state was made on, such as a copy of "
            "its card: it has ids of its own now; the events that wait keep theirs"
        )
    identity = Identity(new_client_id(random), f"ga4-agent-{random(2**48):012x}")
    made = _Record(identity=identity, since_us=wall_us(), salt="", marks={})
    return _bound(made, facts, random)


def _bound(record: _Record, facts: Mapping[str, str], random: Random) -> _Record:
    """With the machine's facts beside the ids; one that cannot be read now stays as it was."""
    salt = record.salt or f"{random(2**SALT_BITS):032x}"
    return replace(record, salt=salt, marks={**record.marks, **_marks(salt, facts)})


def _machine(record: _Record, facts: Mapping[str, str]) -> Machine:
    """Whether the ids were made on this machine.

    Only facts that were known then and are known now are evidence. The board decides: a new
    machine-id on the same board is a new installation. Where nothing is known of the board, the
    machine-id decides.
    """
    now = _marks(record.salt, facts) if record.salt else {}
    same = {name: record.marks[name] == now[name] for name in record.marks.keys() & now.keys()}
    board = {name: same[name] for name in same.keys() & set(BOARD)}
    evidence = (board or same).values()
    if not evidence:
        return "unknown"
    return "this" if all(evidence) else "another"


def _marks(salt: str, facts: Mapping[str, str]) -> dict[str, str]:
    """A hash for each fact, so that one that is not readable does not spoil the others."""
    return {name: _mark(salt, name, fact) for name, fact in facts.items()}


def _mark(salt: str, name: str, fact: str) -> str:
    key, person = bytes.fromhex(salt), name.encode()
    return hashlib.blake2b(
        fact.encode(), digest_size=MARK_BYTES, key=key, person=person
    ).hexdigest()


# -- the file ---------------------------------------------------------------------------------


def _set_aside_if_damaged(path: Path) -> _Record | None:
    """Half an identity is none. What was counted under the old id stays with it."""
    try:
        return _read(path)
    except ValueError:
        log.error("%s is damaged: this device has new ids now", path)
        with suppress(OSError):  # a disk that cannot be written is said below
            path.replace(path.with_suffix(DAMAGED))
        return None


def _read(path: Path) -> _Record | None:
    """What is stored; None if there is nothing. Raises ValueError: it is damaged; OSError."""
    try:
        return _record(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("found another shape") from error


def _record(stored: Any) -> _Record:
    """Raises ValueError, KeyError, TypeError, AttributeError. An older file has only the ids."""
    ids = stored["client_id"], stored["mqtt_client_id"]
    since, salt = stored.get("since_us"), stored.get("salt", "")
    marks = {str(name): str(mark) for name, mark in stored.get("marks", {}).items()}
    # An empty id would be sent, and counted for nobody.
    sound = MADE.fullmatch(ids[0]) and str.strip(ids[1]) and type(since) in (int, type(None))
    if not sound or (salt and len(bytes.fromhex(salt)) * 8 != SALT_BITS):
        raise ValueError("found no ids")
    return _Record(identity=Identity(*ids), since_us=since, salt=salt, marks=marks)


def _write(path: Path, record: _Record) -> None:
    stored = {
        **asdict(record.identity),
        "since_us": record.since_us,
        "salt": record.salt,
        "marks": dict(record.marks),
    }
    atomic_file.write(path, json.dumps(stored).encode())
