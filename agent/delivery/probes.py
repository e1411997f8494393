"""Requests without events: what time it is there, and whether anybody answers at all."""

from collections.abc import Callable

from agent.anchor import SAID_ERROR_US
from agent.clock import Clock
from agent.delivery.outlet import Outlet
from agent.delivery.transport import Exchange
from agent.event import Stream
from agent.ga4.outcome import Retry, probed
from agent.ga4.request import Request, probe

NO_TIME = Retry(
    "offline",
    "cannot tell the time: found a clock that is not set and no usable Date in the endpoint's "
    "answer, expected one of them; turn NTP on (timedatectl set-ntp true)",
)


class Probes:
    """Asks an endpoint where events cannot, or must not yet. Any thread may call any method."""

    def __init__(
        self,
        *,
        exchange: Callable[[Request, Stream], Exchange],
        clock: Clock,
        trusted: Callable[[], bool],
    ) -> None:
        """``exchange``: posts, and passes on what time the answer names."""
        self._exchange = exchange
        self._clock = clock
        self._trusted = trusted
        self._asked_again: dict[str, int] = {}  # by stream: the failures before

    def time_is_known(self, outlet: Outlet, ticket: int) -> bool:
        """Whether events may leave; the endpoint is asked for the time if need be.

        Once more if its Date came by an exchange that took too long to be worth 2 s: the first
        one holds DNS, TCP and TLS, the second goes over the open connection. If that is slow too,
        a third would be no better.
        """
        if not self._trusted() and not self.answers(outlet, ticket):
            return False
        return not self._worth_asking_again(outlet, ticket) or self.answers(outlet, ticket)

    def answers(self, outlet: Outlet, ticket: int) -> bool:
        """Whether the endpoint answers and the time is known then; the outlet hears if not."""
        answer = self._exchange(probe(outlet.stream), outlet.stream).answer
        trouble = probed(answer, outlet.stream) or (None if self._trusted() else NO_TIME)
        if trouble:
            outlet.failed(trouble, ticket)
        return trouble is None

    def _worth_asking_again(self, outlet: Outlet, ticket: int) -> bool:
        """Whether the time is only known badly, and this was not asked since the last failure."""
        name, anchor = outlet.stream.name, self._clock.anchor
        if anchor is None or anchor.error_at(self._clock.boot_us()) <= SAID_ERROR_US:
            self._asked_again.pop(name, None)
            return False
        asked = self._asked_again.get(name) == ticket
        self._asked_again[name] = ticket
        return not asked
