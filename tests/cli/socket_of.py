"""A control socket as the daemon has it, with commands that a test makes up."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.control import ControlError, ControlSocket, NotRunning, ask
from agent.progress import Progress
from tests.waiting import PATIENCE, until


@contextmanager
def daemon(directory: Path, **commands: Callable[..., Any]) -> Iterator[None]:
    """Answers on the control socket of the directory; a bug in a command fails the test."""
    directory.mkdir(exist_ok=True)
    bugs: list[BaseException] = []
    made = ControlSocket(directory=directory, commands=commands, on_bug=bugs.append)
    stop, progress = threading.Event(), Progress(name="control", patience=60.0)
    thread = threading.Thread(target=made.run, args=(stop, progress))
    thread.start()
    try:
        until(lambda: _answers(directory), "the control socket")
        yield
    finally:
        stop.set()
        with suppress(NotRunning, ControlError, OSError):
            ask(directory, "?")  # it looks at the stop after each connection
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert bugs == []


def _answers(directory: Path) -> bool:
    try:
        ask(directory, "?")
    except NotRunning:
        return False
    except ControlError:
        return True
    raise AssertionError("the daemon knows every command")
