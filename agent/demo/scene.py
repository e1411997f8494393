"""What there is to see at one moment. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agent.demo.balance import Balance

Phase = Literal["not started", "starting", "running", "killed", "ending", "ended"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """What has happened, and after how many seconds."""

    at: float
    text: str

    def line(self) -> str:
        """It as a line of text."""
        return f"{self.at:5.1f} s  {self.text}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that arrived at GA4."""

    name: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What can be seen of the parts; counts are of events.

    ``agent`` is what became of the process, ``state`` the word of its own `status`, empty while
    it does not answer. ``queued`` is the last known length of its queue, which lies on the disk
    while the agent is dead. ``arrived`` counts no repeats. ``arrivals`` are the newest, the oldest
    of them first.
    """

    broker: str
    agent: Phase
    state: str
    ga4_there: bool
    acknowledged: int
    queued: int
    arrived: int
    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One moment of the story, ``seconds`` after it began.

    ``queue`` has every length of the queue that was seen so far, in about equal steps of time.
    """

    seconds: float
    sight: Sight
    queue: tuple[int, ...]
    sentences: tuple[Sentence, ...]
    balance: Balance | None = None
