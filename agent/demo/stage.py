"""All the parts together, each of them real, and what can be seen of them."""

from contextlib import ExitStack
from pathlib import Path

from agent.demo.broker import Broker, Program, free_port
from agent.demo.device import AgentProcess
from agent.demo.pace import Pause
from agent.demo.programs import Programs
from agent.demo.scene import Arrival, Sight
from agent.emulator import Emulator, Fault

NEWEST = 12  # arrivals that are worth showing


class Stage:
    """A local GA4, a broker, the agent, and programs that hand in events.

    Raises NoBroker when it is made. ``directory`` is for all that they write.
    """

    def __init__(
        self, *, directory: Path, program: Program | None = None, emulator: Emulator | None = None
    ) -> None:
        self.emulator = emulator or Emulator(port=free_port())
        self.broker = Broker(directory=directory, program=program)
        self.agent = AgentProcess(
            directory=directory, endpoint=self.emulator.url, mqtt_port=self.broker.port
        )
        self.programs = Programs(http_port=self.agent.http_port, mqtt_port=self.broker.port)
        self._ga4_there = False
        self._queued = 0

    def set_up(self, cleanup: ExitStack, pause: Pause) -> None:
        """Start everything; ``cleanup`` ends it, whatever has become of it. Raises NoBroker."""
        cleanup.callback(self.emulator.stop)
        self.connect_ga4()
        cleanup.callback(self.broker.stop)
        self.broker.start(pause)
        cleanup.callback(self.agent.kill)
        self.agent.start()
        cleanup.callback(self.programs.end)

    def connect_ga4(self, *, answer: float = 0.0) -> None:
        """Make GA4 be there; it takes ``answer`` seconds for an answer."""
        self.emulator.start()
        if answer:
            self.emulator.fail(Fault("delay", seconds=answer))
        self._ga4_there = True

    def disconnect_ga4(self) -> None:
        """Make GA4 be gone: connections are refused."""
        self.emulator.stop()
        self._ga4_there = False

    def ready(self) -> bool:
        """Whether the agent answers and its sources are connected."""
        status = self.agent.status()
        return status is not None and not any(s["problem"] for s in status["sources"].values())

    def queued(self) -> int:
        """How many events wait in the queue; the last known figure while the agent is dead."""
        status = self.agent.status()
        if status is not None:
            self._queued = status["queue"]["events"]
        return self._queued

    def received(self) -> int:
        """How many events the agent committed; -1 while it does not answer."""
        status = self.agent.status()
        return -1 if status is None else status["ledger"]["received"]

    def arrived(self) -> list[int]:
        """The number of each event that arrived, repeats among them."""
        return [event["params"]["number"] for event in self.emulator.events()]

    def look(self) -> Sight:
        """What can be seen now."""
        status = self.agent.status()
        if status is not None:
            self._queued = status["queue"]["events"]
        events = self.emulator.events()
        return Sight(
            broker=self.broker.name,
            agent=self.agent.phase,
            state="" if status is None else status["state"],
            ga4_there=self._ga4_there,
            acknowledged=len(self.programs.acknowledged),
            queued=self._queued,
            arrived=len({event["params"]["number"] for event in events}),
            arrivals=tuple(Arrival(e["name"], e["params"]) for e in events[-NEWEST:]),
        )
