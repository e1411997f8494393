"""Streams whose events must not count twice: what is on record before and after each POST.

For them (``on_uncertain = "lose"``) a mark is committed before events leave. An event whose mark
was neither followed by a clear answer nor taken off is dropped, counted as ``uncertain``: here
after an unclear answer, at the next start of the queue after a crash.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from agent.event import Stream
from agent.ga4.outcome import NoAnswer, Response, maybe_counted
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError

log = logging.getLogger(__name__)

UNCERTAIN = "uncertain"


class Marks:
    """Sets and takes off the marks of the streams that want them; for others it only releases."""

    def __init__(
        self, *, queue: EventQueue, record: Callable[[Callable[[], None], int], None]
    ) -> None:
        """``record``: makes a write about so many events now, or later if the disk refuses it."""
        self._queue = queue
        self._record = record

    def set(self, stream: Stream, ids: Sequence[int]) -> bool:
        """Before a POST. False: the disk refused the mark, so they must not leave."""
        if stream.on_uncertain != "lose":
            return True
        try:
            self._queue.mark_sending(ids)
        except StorageError:
            return False
        return True

    def take_off(self, stream: Stream, ids: Sequence[int]) -> None:
        """After an answer that says that nothing was done with them."""
        if stream.on_uncertain != "lose":
            return
        try:
            self._queue.unmark_sending(ids)
        except StorageError:
            # To wait for the disk would stop the delivery that empties it. Only a crash before
            # their next request drops them now, and that is counted.
            log.warning("stream %s: cannot take off the mark of unsent events", stream.name)

    def keep_or_lose(self, stream: Stream, ids: Sequence[int], answer: Response | NoAnswer) -> None:
        """After an answer that did not decide: they wait again, unless they may count twice."""
        if stream.on_uncertain == "lose" and maybe_counted(answer):
            log.warning(
                "stream %s: %s: %d events that may have been counted will not be sent again",
                stream.name, UNCERTAIN, len(ids),
            )  # fmt: skip
            self._record(partial(self._queue.drop, ids, reason=UNCERTAIN), len(ids))
            return
        self.take_off(stream, ids)
        self._queue.release(ids)
