"""What goes wrong without being a bug: one line for the person, and exit status 1."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

BY_HAND = 130  # exit status: what a shell makes of SIGINT


@contextmanager
def said_plainly(what: str, directory: Path) -> Iterator[None]:
    """End with the reason when ``what``, a verb, cannot be done on this state directory."""
    from agent.control import ControlError, NotRunning
    from agent.ownership import AlreadyOwned
    from agent.queue.failures import StorageError, UnreadableQueue
    from agent.queue.reader import CannotRead, owner

    try:
        yield
    except (ControlError, NotRunning, AlreadyOwned, CannotRead) as error:
        sys.exit(str(error))
    except (StorageError, UnreadableQueue) as error:
        sys.exit(str(error))
    except BrokenPipeError:
        raise  # who reads our output has had enough: click ends quietly
    except PermissionError:
        sys.exit(f"cannot {what}: you may not; run this as root or as {owner(directory)}")
    except OSError as error:
        sys.exit(f"cannot {what}: {error.strerror or error}")


@contextmanager
def asking(given_up: str) -> Iterator[None]:
    """Around a question: a person who leaves it with Ctrl-C hears that nothing was done."""
    try:
        yield
    except click.Abort:
        click.echo(f"\n{given_up}", err=True)
        sys.exit(BY_HAND)
