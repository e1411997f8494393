"""A sorter for tests: any of its parts can be given."""

import itertools

from agent.clock import Clock
from agent.intake.attribution import Attribution, Device
from agent.intake.duplicates import Window
from agent.intake.judging import Judge
from agent.intake.reception import Reception
from agent.intake.sorting import Sorter

DEVICE = Device(client_id="1.1")


def sorter(*, streams, device: Device = DEVICE, mode="off", **parts) -> Sorter:
    """It makes ids made-1, made-2 and so on, repairs nothing, and puts events into no sittings."""
    numbers = itertools.count(1)
    clock = parts.pop("clock", None) or Clock(synchronised=lambda: True)
    return Sorter(
        **{
            "streams": streams,
            "judges": {
                name: Judge(kind="app" if stream.is_app else "web", mode=mode)
                for name, stream in streams.items()
            },
            "attribution": Attribution(device=device),
            "params": {},
            "new_id": lambda: f"made-{next(numbers)}",
            "local": clock.stamp_of,
            "now_us": clock.now_us,
            "sessions": False,
        }
        | parts
    )


def reception(queue) -> Reception:
    """It knows what the queue has seen, and no sittings."""
    return Reception(window=Window(load=queue.seen), sessions=None)
