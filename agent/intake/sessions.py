"""Which sitting of its client an event belongs to, and the session id that GA4 will know it by."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.event import Stamp
from agent.intake.sitting import SECOND, Happening, History, Mark, Rules, read, take, written
from agent.queue.entries import SessionState

CLIENTS = 1000  # kept in memory; the others are read again when they come back


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An event's place: whose it is, its session and its engagement.

    ``start``: when the sitting began, if its id cannot be known yet; ``resolve`` tells it later.
    Without both there is no sitting. ``state``: to be committed with the event.
    """

    client_id: str
    session_id: int | None = None
    start: Stamp | None = None
    engagement_ms: int | None = None
    state: SessionState | None = None


class Sessions:
    """The sittings of all clients.

    Memory may be ahead of the disk, and that does no harm: what is returned holds all that was
    before it, and if its commit fails, a sitting that no stored event belongs to is forgotten at
    the next restart, or has used up an id. At the latest the next event of the client brings it to
    the disk. A client that is forgotten here before its commit (``clients`` others came in the
    meantime) may begin a new sitting.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], str | None],
        boot_id: str,
        timeout_s: float,
        longest_s: float,
        per_sitting: bool,
        new_client_id: Callable[[Stamp], str],
        clients: int = CLIENTS,
    ) -> None:
        """``load``: the stored state of a client. ``boot_id``: this boot; all others are over."""
        self._load = load
        self._rules = Rules(
            timeout_us=round(timeout_s * SECOND),
            longest_us=round(longest_s * SECOND),
            boot_id=boot_id,
        )
        self._per_sitting = per_sitting
        self._new_client_id = new_client_id
        self._most = clients
        self._lock = threading.Lock()
        self._histories: OrderedDict[str, History] = OrderedDict()

    def place(self, client: str, *, stamp: Stamp, human: bool, mark: Mark, own: bool) -> Placed:
        """Put an event into its sitting. ``own``: the client is this device.

        Who stamps before calling may be overtaken by a second; what is older than that cannot
        move its client's sittings.
        """
        renames = self._per_sitting and own
        event = Happening(
            stamp=stamp, human=human, mark=mark,
            name=self._new_client_id if renames else lambda _: client,
        )  # fmt: skip
        with self._lock:
            known = self._history(client)
            taken = take(known, event, self._rules)
            state = self._remember(client, known, taken.history)
        if taken.sitting is None:
            return Placed(client_id=client, state=state)
        sitting = taken.sitting
        return Placed(
            client_id=sitting.client_id,
            session_id=sitting.session_id,
            start=sitting.start if sitting.session_id is None else None,
            engagement_ms=taken.engagement_ms,
            state=state,
        )

    def resolve(
        self, client: str, start: Stamp, when: Callable[[Stamp], int]
    ) -> tuple[int, SessionState | None]:
        """The session id of a sitting that began at ``start``, the same at every call.

        ``when``: the corrected time of a stamp, in microseconds. The id is greater than those of
        all earlier sittings of the client and less than those of all later ones. Commit the state
        before the id leaves: else a restart may find another one. A sitting that is remembered no
        more gets the second in which it began, which is below all that are remembered; ``when`` is
        believed once for all of them that are of one boot.
        """
        time_us = when(start)
        with self._lock:
            known = self._history(client)
            history, session_id = known.kept(start, time_us)
            return session_id, self._remember(client, known, history)

    def _history(self, client: str) -> History:
        if (history := self._histories.get(client)) is None:
            text = self._load(client)
            history = read(text) if text else History()
            self._histories[client] = history
        self._histories.move_to_end(client)
        while len(self._histories) > self._most:
            self._histories.popitem(last=False)
        return history

    def _remember(self, client: str, known: History, history: History) -> SessionState | None:
        if history == known:
            return None
        history = replace(history, number=known.number + 1)
        self._histories[client] = history
        return SessionState(client, written(history))
