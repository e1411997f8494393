"""The threads of one configuration: those that send events and those that take them."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from agent.delivery.shipper import Shipper
from agent.intake.source import Source
from agent.worker import Worker

log = logging.getLogger(__name__)

OnBug = Callable[[BaseException], None]


def sending(
    shipper: Shipper,
    *,
    connections: int,
    patience: float,
    on_bug: OnBug,
    after: Sequence[Worker] = (),
) -> list[Worker]:
    """A worker for each connection; see ``Worker``."""
    return [
        Worker(
            name=f"shipper-{number + 1}",
            target=shipper.run,
            patience=patience,
            on_bug=on_bug,
            on_stop=shipper.stop,
            after=after,
        )
        for number in range(connections)
    ]


def taking(
    sources: Mapping[str, Source],
    *,
    patience: float,
    on_bug: OnBug,
    after: Sequence[Worker] = (),
) -> list[Worker]:
    """A worker for each source, of its name; see ``Worker``."""
    return [
        Worker(name=name, target=source.run, patience=patience, on_bug=on_bug, after=after)
        for name, source in sources.items()
    ]


def problems(workers: Sequence[Worker], sources: Mapping[str, Source]) -> dict[str, str | None]:
    """By name, why nothing comes in; None where all is well."""
    found = {worker.name: worker.problem for worker in workers}
    for name, source in sources.items():
        found[name] = found.get(name) or source.problem
    return found


def end(workers: Sequence[Worker], bound: float) -> bool:
    """Ask all of them at once, then wait. False: one hangs, and ends with the process."""
    for worker in workers:
        worker.stop()
    until = time.monotonic() + bound
    ended = True
    for worker in workers:
        if not worker.join(max(0.0, until - time.monotonic())):
            log.error("%s did not stop in time; the disk has everything", worker.name)
            ended = False
    return ended
