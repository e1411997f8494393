"""The story: events arrive, GA4 goes away, the agent is killed, everything arrives, it balances."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.demo.broker import Broker, NoBroker
from agent.demo.device import AgentProcess, Programs
from agent.emulator import Emulator

EACH = 20  # events by each way in the first act
MANY = 150  # events by each way during the outage
PATIENCE = 15.0  # seconds for anything to happen that should
LOOK = 0.05  # seconds between looks at another process


class Failed(Exception):  # noqa: N818 - the story's end
    """Something that must happen did not."""


class Story:
    """Tells it with real parts in a directory of its own."""

    def __init__(self, *, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._began = time.monotonic()

    def tell(self) -> bool:
        """Whether all that was acknowledged arrived, and the books balance."""
        with ExitStack() as cleanup:
            try:
                return self._acts(cleanup)
            except (Failed, NoBroker) as failed:
                self._line(str(failed))
                return False

    def _acts(self, cleanup: ExitStack) -> bool:
        emulator = cleanup.enter_context(Emulator())
        broker = Broker(directory=self._directory)
        cleanup.callback(broker.stop)
        broker.start()
        agent = AgentProcess(
            directory=self._directory, endpoint=emulator.url, mqtt_port=broker.port
        )
        cleanup.callback(agent.kill)
        agent.start()
        self._until(lambda: self._ready(agent), "the agent did not get ready")
        self._line(f"a local GA4, {broker.name} and the agent are running on this machine")
        programs = Programs(agent=agent, mqtt_port=broker.port)
        cleanup.callback(programs.end)
        self._arrivals(emulator, programs)
        self._outage(emulator, broker, agent, programs)
        self._drain(emulator, agent, programs)
        return self._balance(emulator, agent, programs)

    def _arrivals(self, emulator: Emulator, programs: Programs) -> None:
        programs.by_mqtt(EACH)
        programs.by_http(EACH)
        self._all_arrive(emulator, programs)
        self._line(f"{EACH} events by MQTT and {EACH} by HTTP: all arrived at GA4")

    def _outage(
        self, emulator: Emulator, broker: Broker, agent: AgentProcess, programs: Programs
    ) -> None:
        emulator.stop()
        self._line("GA4 is gone: the connection is refused from now on")
        programs.by_http(MANY)
        programs.by_mqtt(MANY)
        self._line(f"{2 * MANY} more events were acknowledged by the agent and the broker")
        if not broker.redelivers:
            wanted = len(programs.acknowledged)
            self._until(lambda: self._received(agent) >= wanted, "MQTT events did not arrive")
        agent.kill()
        self._line("kill -9: the agent is dead in the middle of it")
        agent.start()
        self._until(lambda: self._ready(agent), "the agent did not come back")
        self._line(f"the agent is back, with {self._queued(agent)} events in its queue on disk")

    def _drain(self, emulator: Emulator, agent: AgentProcess, programs: Programs) -> None:
        emulator.start()
        agent.ask("flush")
        self._line("GA4 is back: the queue drains")
        self._all_arrive(emulator, programs)
        self._until(lambda: self._queued(agent) == 0, "the queue did not empty")

    def _balance(self, emulator: Emulator, agent: AgentProcess, programs: Programs) -> bool:
        ledger = agent.ask("status")["ledger"]
        status = agent.end()
        arrived = Counter(event["params"]["number"] for event in emulator.events())
        missing = programs.acknowledged - arrived.keys()
        repeats = arrived.total() - len(arrived)
        dropped = sum(ledger["dropped"].values())
        self._line(
            f"acknowledged {len(programs.acknowledged)} = arrived {len(arrived)}"
            f", missing {len(missing)}, sent twice {repeats}"
        )
        self._line(
            f"ledger: received {ledger['received']} = sent {ledger['sent']} + queued "
            f"{ledger['queued']} + dead {ledger['dead']} + dropped {dropped}"
        )
        right = not missing and ledger["balanced"] and ledger["sent"] == arrived.total()
        self._line("the books balance" if right and status == 0 else "THE BOOKS DO NOT BALANCE")
        return bool(right) and status == 0

    def _all_arrive(self, emulator: Emulator, programs: Programs) -> None:
        def arrived() -> bool:
            return programs.acknowledged <= {e["params"]["number"] for e in emulator.events()}

        if not emulator.wait_for(arrived, PATIENCE):
            raise Failed("not everything arrived")

    def _ready(self, agent: AgentProcess) -> bool:
        status = agent.ask("status")
        return status is not None and not status["sources"]["mqtt"]["problem"]

    def _queued(self, agent: AgentProcess) -> int:
        status: dict[str, Any] = agent.ask("status") or {}
        return int(status.get("queue", {}).get("events", -1))

    def _received(self, agent: AgentProcess) -> int:
        status: dict[str, Any] = agent.ask("status") or {}
        return int(status.get("ledger", {}).get("received", -1))

    def _until(self, condition: Callable[[], bool], otherwise: str) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until:
                raise Failed(otherwise)
            time.sleep(LOOK)

    def _line(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:5.1f} s  {text}")
