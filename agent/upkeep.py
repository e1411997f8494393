"""Purging and requeuing: by the running daemon or, while there is none, by this process.

Long work is many short steps, each a commit of its own, so that nobody waits for it and who
asked for it can see it go on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.control import Command, ControlError, NotRunning, ask
from agent.event import Json
from agent.ownership import StateLock
from agent.queue.entries import Step
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError, UnreadableQueue
from agent.queue.opening import open_queue
from agent.queue.pages import ID_MAX, Selection
from agent.rights import as_owner

NO_CAP = ID_MAX  # bytes: nothing is put, so that there is nothing to decline
TEXT_MAX = 1000  # characters of a filter


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done so far; ``kept``: what was selected and had to stay."""

    done: int = 0
    kept: int = 0


def commands(queue: EventQueue) -> dict[str, Command]:
    """What the control socket offers of a queue. Each call is one step; see ``Step``."""
    return {
        "purge": partial(_step, queue.purge),
        "requeue": partial(_step, queue.requeue),
    }


@contextmanager
def at_work(directory: Path) -> Iterator[Callable[..., Any]]:
    """What does a command with arguments: the daemon, or this process with its lock.

    Raises NotRunning, ControlError, AlreadyOwned, UnreadableQueue, StorageError, OSError; so
    does what it yields.
    """
    try:
        ask(directory, "status")
    except NotRunning:
        with as_owner(directory), _own_queue(directory) as queue:
            table = commands(queue)
            yield lambda command, **arguments: table[command](**arguments)
    else:
        yield partial(ask, directory)


def step_by_step(do: Callable[..., Any], command: str, selection: Selection) -> Iterator[Tally]:
    """Do all of it; yields how far it is after each step."""
    tally, after = Tally(), 0
    while after is not None:
        step = do(command, after=after, **asdict(selection))
        tally, after = Tally(tally.done + step["done"], tally.kept + step["kept"]), step["next"]
        yield tally


@contextmanager
def _own_queue(directory: Path) -> Iterator[EventQueue]:
    lock = StateLock.take(directory)
    try:
        queue = open_queue(directory, max_bytes=NO_CAP)
        try:
            yield queue
        finally:
            queue.close()
    finally:
        lock.release()


def _step(
    work: Callable[..., Step],
    *,
    after: Json = 0,
    dead: Json = False,
    upto: Json = ID_MAX,
    stream: Json = None,
    name: Json = None,
    reason: Json = None,
) -> dict[str, Any]:
    """Check what came over the socket, then do it. Raises ControlError."""
    texts = (stream, name, reason)
    sound = isinstance(dead, bool) and all(map(_is_id, (after, upto))) and all(map(_is_text, texts))
    if not sound:
        raise ControlError("cannot select rows: expected ids, true or false, and texts")
    selection = Selection(dead=dead, upto=upto, stream=stream, name=name, reason=reason)
    try:
        return asdict(work(selection, after=after))
    except (StorageError, UnreadableQueue) as error:
        raise ControlError(str(error)) from error


def _is_id(value: Json) -> bool:
    return type(value) is int and 0 <= value <= ID_MAX


def _is_text(value: Json) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= TEXT_MAX)
