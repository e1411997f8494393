"""The faults that other agents lose events to, made for ours: ``python bench/faults.py``.

Each scenario has a real agent in a process of its own, a local GA4 that fails, and events handed
in over HTTP. All run at once, without anybody urging the agent on; it takes about 45 seconds.
Exit status: 0 if ours is as it must be, else 1.

The other agents' rows were measured elsewhere and by hand, with the same faults (S2 and S3 with
300 events for most of them). S1 was not measured for them.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from a checkout as it is

from agent.emulator import Emulator, Fault
from tests.acceptance.daemon import Daemon, Setup
from tests.acceptance.publishers import deliveries, event, hand_in, ids_of, post
from tests.waiting import free_port

ARRIVAL = 90.0  # seconds for what waits to arrive; the backoff is at a quarter of it by then
PAUSE = 30  # seconds that the endpoint asks for in S4
WATCHED = 10.0  # of which so many are watched
PAGE = 5.0  # seconds of login page in S6
POSTED = 100  # events in a request to the agent
EVENTS = '"tap"'  # in the body of what brings events, and of no question for the time
UNWANTED = "nobody_wants_this"


@dataclass(frozen=True, slots=True)
class Stage:
    """An agent and its endpoint."""

    daemon: Daemon
    emulator: Emulator

    def hand_in(self, number: int) -> None:
        """So many events, each answered 202: from here on they are the agent's."""
        for begin in range(0, number, POSTED):
            hand_in(self.daemon.setup.http_port, range(begin, min(begin + POSTED, number)))

    @property
    def attempts(self) -> int:
        """How many requests came that brought events."""
        return len(deliveries(self.emulator))

    def wait_attempts(self, number: int) -> None:
        """Until so many did."""
        met = self.emulator.wait_for(lambda: self.attempts >= number, timeout=ARRIVAL)
        assert met, f"waited {ARRIVAL:.0f} s in vain for attempt {number}"

    def kill_and_restart(self) -> None:
        """SIGKILL, and what systemd does then."""
        self.daemon.kill()
        self.daemon.start()

    def arrived(self, number: int) -> str:
        """Wait until as many events arrived; how many did, of how many."""
        self.emulator.wait_for(lambda: len(self._times()) >= number, timeout=ARRIVAL)
        times = self._times()
        repeated = sum(times.values()) - len(times)
        return f"{len(times)}/{number}" + (f" and {repeated} repeated" if repeated else "")

    def _times(self) -> Counter[int]:
        return Counter(ids_of(self.emulator.events()))


def plain_outage(stage: Stage) -> str:
    """The endpoint is down when the events come, and back afterwards."""
    stage.emulator.stop()
    stage.daemon.start()
    stage.hand_in(200)
    stage.daemon.wait(lambda status: status["state"] == "offline")
    stage.emulator.start()
    return stage.arrived(200)


def killed_while_unavailable(stage: Stage) -> str:
    """503, kill -9 in the middle of it, restart, recovery."""
    stage.emulator.fail(Fault("status", status=503, match=EVENTS))
    stage.daemon.start()
    stage.hand_in(500)
    stage.wait_attempts(1)
    stage.kill_and_restart()
    stage.wait_attempts(2)
    stage.emulator.recover()
    return stage.arrived(500)


def killed_while_refused(stage: Stage) -> str:
    """Connection refused, kill -9, restart, recovery."""
    stage.emulator.stop()
    stage.daemon.start()
    stage.hand_in(300)
    stage.daemon.wait(lambda status: status["state"] == "offline")
    stage.kill_and_restart()
    stage.daemon.wait(lambda status: status["state"] == "offline")
    stage.emulator.start()
    return stage.arrived(300)


def asked_to_wait(stage: Stage) -> str:
    """429 that asks for 30 s: the attempts within 10 s, then recovery.

    From the start: while all is well, several requests are under way at once, and each would
    hear it for the first time.
    """
    stage.emulator.fail(Fault("status", status=429, retry_after=str(PAUSE), match=EVENTS))
    stage.daemon.start()
    stage.hand_in(50)
    stage.wait_attempts(1)
    time.sleep(WATCHED)
    attempts = stage.attempts
    stage.emulator.recover()
    return f"{attempts}, {stage.arrived(50)}"


def one_bad_event(stage: Stage) -> str:
    """400 for one event among 50."""
    stage.emulator.fail(Fault("status", status=400, match=UNWANTED))
    stage.daemon.start()
    events = [event(number) for number in range(50)]
    events[17] = event(17, name=UNWANTED)
    assert post(stage.daemon.setup.http_port, "/events", events) == 202  # noqa: PLR2004 - taken
    arrived = stage.arrived(49)
    stage.daemon.wait(lambda status: status["queue"]["events"] == 0, timeout=ARRIVAL)
    return f"{arrived}, {stage.daemon.books().dead} dead"


def login_page(stage: Stage) -> str:
    """200 with a login page for 5 s, then recovery."""
    stage.emulator.fail(Fault("login_page", match=EVENTS))
    stage.daemon.start()
    stage.hand_in(50)
    stage.wait_attempts(1)
    time.sleep(PAGE)
    stage.emulator.recover()
    return stage.arrived(50)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, and what must become of the events."""

    name: str
    play: Callable[[Stage], str]
    must: str


SCENARIOS = (
    Scenario("S1", plain_outage, "200/200"),
    Scenario("S2", killed_while_unavailable, "500/500"),
    Scenario("S3", killed_while_refused, "300/300"),
    Scenario("S4", asked_to_wait, "1, 50/50"),
    Scenario("S5", one_bad_event, "49/49, 1 dead"),
    Scenario("S6", login_page, "50/50"),
)

HEAD = ("", *(scenario.name for scenario in SCENARIOS), "memory")
ELSEWHERE = (
    ("syslog-ng 3.38", "", "300/300", "300/300", "5, 50/50", "blocks, 10/50", "0/50", "15 MB"),
    ("rsyslog 8.23", "", "259/300", "300/300", "50, 0/50", "49, dropped", "0/50", "13 MB"),
    ("Filebeat 8.1", "", "500/500", "", "4, 50/50", "blocks, 1/50", "50/50", "149 MB"),
    ("edge-sync-sdk 0.1.1", "", "300/300", "300/300", "4, 50/50", "blocks, 0/50", "0/50", "29 MB"),
    ("mqttwarn 0.36", "", "0/300", "0/300", "50, 0/50", "49, dropped", "0/50", "30 MB"),
    ("Node-RED 4.1", "", "0/300", "0/300", "100, 50/50", "49, for ever", "0/50", "134 MB"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a scenario came to; ``memory_mb``: the most that the agent had in memory at its end."""

    scenario: Scenario
    cell: str
    memory_mb: float

    @property
    def as_it_must_be(self) -> bool:
        """Whether nothing was lost, repeated, or asked for too often."""
        return self.cell == self.scenario.must


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage in a folder of its own, whose agent is checked for bugs and balance at the end."""
    with tempfile.TemporaryDirectory() as folder, Emulator(port=free_port()) as emulator:
        port = free_port()
        setup = Setup(state=Path(folder) / "state", http_port=port, endpoint=emulator.url)
        daemon = Daemon(directory=Path(folder), setup=setup)
        try:
            yield Stage(daemon, emulator)
        finally:
            daemon.kill()
        daemon.check()


def play(scenario: Scenario) -> Found:
    """Play a scenario on a stage of its own. A failure of it is a finding too."""
    memory_mb = 0.0
    try:
        with staged() as stage:
            cell = scenario.play(stage)
            memory_mb = resident_mb(stage.daemon.pid)
    except (AssertionError, OSError) as error:
        cell = f"failed: {error}"
    return Found(scenario, cell, memory_mb)


def resident_mb(pid: int) -> float:
    """The memory of a process now, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) / 1000


def table(found: Sequence[Found]) -> str:
    """Our row over the others', as Markdown."""
    memory = f"{max(each.memory_mb for each in found):.0f} MB"
    ours = ("ga4-agent", *(each.cell.splitlines()[0] for each in found), memory)
    rows = [HEAD, ours, *ELSEWHERE]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|-" + "-|-".join("-" * width for width in widths) + "-|")
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Play everything, print the table; the exit status."""
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        found = list(pool.map(play, SCENARIOS))
    print(table(found))
    print("\nThe rows below ga4-agent's were measured elsewhere; empty: not measured.")
    wrong = [each for each in found if not each.as_it_must_be]
    for each in wrong:
        print(f"\n{each.scenario.name}: found {each.cell}, expected {each.scenario.must}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
