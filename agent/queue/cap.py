"""How much of the disk everything may take together, and who gets how much of it. Pure.

One cap for the database, its WAL, the ballast, dead letters, the quarantine and the spool folder.
What lies in files of others (spool, quarantine) leaves that much less room for rows.
"""

import threading
from typing import Literal

from agent.event import Priority

OutsidePart = Literal["spool", "quarantine"]

LEAST = 4  # the rows keep a quarter of the room whatever lies in files
RESERVED = 10  # a tenth of the room is kept for events of high priority
OF_THE_SPOOL = 2  # spool files wait for room up to half of the cap
OF_THE_DEAD = 4  # dead letters, with the quarantine, have a quarter of the cap


class Cap:
    """The cap and what lies beside the rows. Any thread may call any method.

    ``reserve``: bytes of it that rows never get, for the WAL and the ballast.
    """

    def __init__(self, max_bytes: int, *, reserve: int) -> None:
        self.max_bytes = max_bytes
        self._reserve = reserve
        self._outside: dict[OutsidePart, int] = {"spool": 0, "quarantine": 0}
        self._lock = threading.Lock()

    def note(self, part: OutsidePart, size: int) -> None:
        """So many bytes lie there now."""
        with self._lock:
            self._outside[part] = size

    @property
    def outside(self) -> int:
        """Bytes that lie in files beside the database."""
        with self._lock:
            return sum(self._outside.values())

    def never_fits(self, size: int, lesser: int) -> bool:
        """Whether not even an empty queue could take that, with so much of it for lesser events."""
        whole = self.max_bytes - self._reserve
        return size > whole or lesser > whole - whole // RESERVED

    @property
    def room(self) -> int:
        """Bytes of the database file that rows may take."""
        whole = self.max_bytes - self._reserve
        return max(whole - self.outside, whole // LEAST)

    @property
    def lesser_room(self) -> int:
        """Bytes that waiting events of normal and low priority may take of it."""
        return self.room - self.room // RESERVED

    @property
    def spool_may_wait(self) -> bool:
        """Whether files may stay in the spool folder until there is room for what is in them."""
        with self._lock:
            return self._outside["spool"] <= self.max_bytes // OF_THE_SPOOL

    @property
    def dead_room(self) -> int:
        """Bytes that dead letters may take of it."""
        with self._lock:
            return max(0, self.max_bytes // OF_THE_DEAD - self._outside["quarantine"])

    def excess(self, *, priority: Priority, size: int, used: int, lesser: int) -> int:
        """Bytes that must go before rows of that priority and size fit; 0 or less: they fit.

        ``used``: bytes of the file that hold something, ``lesser``: those of waiting events of
        normal and low priority.
        """
        over = used + size - self.room
        return over if priority == Priority.HIGH else max(over, lesser + size - self.lesser_room)
