"""Keeps the times of a client's events apart: GA4 orders them by nothing else.

Events of one body, of one burst or of one file came at the same moment as far as anybody knows, and
publishers count in seconds. Each gets a microsecond of its own, in the order of arrival. Nothing of
it is stored: after a restart, events of a second that was begun before it may share a microsecond
with those that were taken before.
"""

import threading
from collections import OrderedDict
from dataclasses import replace

from agent.event import Event

MOMENTS = 10_000  # remembered; what comes again later than that may share a microsecond

Line = tuple[str | None, str | None, str]  # times of one client that can be compared


class Spacing:
    """Moments at which clients had events. Any thread may call it."""

    def __init__(self, *, moments: int = MOMENTS) -> None:
        self._most = moments
        self._lock = threading.Lock()
        # From a moment that is taken to a later one before which all are.
        self._taken: OrderedDict[tuple[Line, int], int] = OrderedDict()

    def apart(self, event: Event) -> Event:
        """The event at a time that its client has at no other event that is remembered."""
        line, moment = _moment(event)
        with self._lock:
            behind = self._take(line, moment) - moment
        if not behind:
            return event
        if event.time_us is not None:
            return replace(event, time_us=event.time_us + behind)
        stamp = event.stamp
        later = replace(stamp, wall_us=stamp.wall_us + behind, boot_us=stamp.boot_us + behind)
        return replace(event, stamp=later)

    def _take(self, line: Line, moment: int) -> int:
        """The first free moment from this one on; it is taken now."""
        passed = [moment]
        while (following := self._taken.get((line, moment))) is not None:
            moment = following
            passed.append(moment)
        for each in passed:  # the next one need not go the same way step by step
            self._taken[line, each] = moment + 1
            self._taken.move_to_end((line, each))
        while len(self._taken) > self._most:
            self._taken.popitem(last=False)
        return moment


def _moment(event: Event) -> tuple[Line, int]:
    """When it was, as it will be sent as far as that is known, and with which others it counts."""
    sender, stamp = event.sender, event.stamp
    clock, moment = "", stamp.wall_us
    if event.time_us is not None:
        moment = event.time_us
    elif not stamp.trusted:
        clock = stamp.boot_id or "unknown"
        moment = stamp.boot_us if stamp.boot_id else stamp.wall_us
    return (sender.client_id, sender.app_instance_id, clock), moment
