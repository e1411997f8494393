"""The story: events arrive, GA4 goes away, the agent is killed, everything arrives, it balances."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from agent.demo.balance import Balance, judge
from agent.demo.broker import NoBroker
from agent.demo.pace import Pace, Pause
from agent.demo.scene import Scene, Sentence
from agent.demo.stage import Stage

EACH = 20  # events of each program in the first act
MANY = 150  # events of each program during the outage
PATIENCE = 15.0  # seconds for anything to happen that should
LOOK = 0.05  # seconds between looks at another process


class Failed(Exception):  # noqa: N818 - the story's end
    """Something that must happen did not."""


class Story:
    """Tells it on a stage, to whoever is shown the scenes."""

    def __init__(
        self,
        *,
        stage: Stage,
        show: Callable[[Scene], None],
        pace: Pace,
        pause: Pause,
        patience: float = PATIENCE,
    ) -> None:
        """``show`` is called from one thread at a time; ``patience`` is in seconds."""
        self._stage = stage
        self._show = show
        self._pace = pace
        self._pause = pause
        self._patience = patience
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._sentences: list[Sentence] = []
        self._queue: list[int] = []
        self._balance: Balance | None = None

    def tell(self) -> bool:
        """Whether all that was acknowledged arrived, and the books balance. Raises Interrupted."""
        with ExitStack() as cleanup:
            try:
                self._prepare(cleanup)
                self._arrivals()
                self._outage()
                self._kill()
                self._drain()
                return self._count()
            except (Failed, NoBroker) as failure:
                self._say(str(failure))
                return False

    def look(self) -> None:
        """Show the scene as it is now; from any thread."""
        with self._lock:
            sight = self._stage.look()
            self._queue.append(sight.queued)
            scene = Scene(
                seconds=time.monotonic() - self._began,
                sight=sight,
                queue=tuple(self._queue),
                sentences=tuple(self._sentences),
                balance=self._balance,
            )
            self._show(scene)

    # -- the acts -------------------------------------------------------------------------------

    def _prepare(self, cleanup: ExitStack) -> None:
        self._stage.set_up(cleanup, self._pause)
        self._until_ready("the agent did not get ready")
        broker = self._stage.broker.name
        self._tell(f"a local GA4, {broker} and the agent are running on this machine")

    def _arrivals(self) -> None:
        self._stage.programs.start(each=EACH, rate=self._pace.calm)
        # An empty queue too: GA4 must not go before its answer has come, or it is asked twice.
        self._until(self._all_arrived, "not everything arrived")
        self._tell(f"{EACH} events by MQTT and {EACH} by HTTP: all arrived at GA4")

    def _outage(self) -> None:
        self._stage.disconnect_ga4()
        self._tell("GA4 is gone: the connection is refused from now on")
        self._stage.programs.start(each=MANY, rate=self._pace.busy)
        if self._stage.broker.redelivers:
            half = 2 * EACH + MANY
            programs = self._stage.programs
            self._until(lambda: len(programs.acknowledged) >= half, "the events were not taken")
        else:
            self._finish_handing_in()

    def _kill(self) -> None:
        """In the middle of traffic, if the broker sends again what a dead agent did not take."""
        busy = self._stage.programs.busy
        self._stage.agent.kill()
        self._say("kill -9: the agent is dead" + (", the programs go on sending" if busy else ""))
        self._pause(self._pace.dead)
        self._stage.agent.start()
        self._until_ready("the agent did not come back")
        self._tell(f"the agent is back, with {self._stage.queued()} events in its queue on disk")
        if self._stage.broker.redelivers:
            self._finish_handing_in()

    def _finish_handing_in(self) -> None:
        stage, programs = self._stage, self._stage.programs
        self._until(lambda: not programs.busy, "the events were not taken")
        wanted = len(programs.acknowledged)
        self._until(lambda: stage.received() >= wanted, "events by MQTT did not reach the agent")
        self._say(f"{2 * MANY} more events were acknowledged by the agent and the broker")
        if programs.unanswered:
            self._say(f"{programs.unanswered} times nobody answered, and a program tried again")
        self._pause(self._pace.reading)

    def _drain(self) -> None:
        self._stage.connect_ga4(answer=self._pace.answer)
        self._stage.agent.flush()
        self._say("GA4 is back: the queue drains")
        try:
            self._until(self._all_arrived, "not everything arrived")
        except Failed as failure:
            self._say(str(failure))  # the balance says how much

    def _count(self) -> bool:
        agent = self._stage.agent
        status = agent.status()
        if status is None:
            raise Failed(f"the agent does not answer; {agent.last_words()}")
        agent.terminate()
        self._until(lambda: agent.ended() is not None, "the agent did not end")
        self._balance = judge(
            acknowledged=self._stage.programs.acknowledged,
            arrived=self._stage.arrived(),
            ledger=status["ledger"],
            ended=agent.ended() or 0,
        )
        self.look()
        return self._balance.right

    # -- telling and waiting --------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._sentences.append(Sentence(time.monotonic() - self._began, text))
        self.look()

    def _tell(self, text: str) -> None:
        """Say it, and leave time to read it."""
        self._say(text)
        self._pause(self._pace.reading)

    def _all_arrived(self) -> bool:
        programs = self._stage.programs
        return (
            not programs.busy
            and programs.acknowledged <= set(self._stage.arrived())
            and self._stage.queued() == 0
        )

    def _until_ready(self, otherwise: str) -> None:
        agent = self._stage.agent
        try:
            self._until(lambda: self._stage.ready() or agent.ended() is not None, otherwise)
        except Failed:
            raise Failed(f"{otherwise}; {agent.last_words()}") from None
        if agent.ended() is not None:
            raise Failed(f"{otherwise}; {agent.last_words()}")

    def _until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait for it, but not for ever. Raises Failed, Interrupted."""
        until = time.monotonic() + self._patience
        while not condition():
            if time.monotonic() > until:
                raise Failed(otherwise)
            self._pause(LOOK)


@contextmanager
def watching(look: Callable[[], None], *, every: float) -> Iterator[None]:
    """Look every so many seconds, from a thread; what goes wrong there is raised at the end."""
    stop = threading.Event()
    bugs: list[Exception] = []

    def run() -> None:
        try:
            while not stop.wait(every):
                look()
        except Exception as bug:
            bugs.append(bug)

    thread = threading.Thread(target=run, name="watching")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if bugs:
            raise bugs[0]
