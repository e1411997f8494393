"""A soak: the real agent, broker, disk and clock, for as long as told, under random faults.

    python tests/system/soak.py --minutes 10 [--seed N] [--without KIND] [--only KIND] [--keep]

Everything is on this machine. At the end all is healed, the agent drains, and an oracle outside it
compares what every publisher was told with what arrived, died and was counted. Exit status: 0 all
was as promised, 1 not: then the seed, the faults with their times and the events are printed.

The seed draws the faults, their order, times and lengths, and what the programs do. It does not
draw what the machine makes of it: a run is not repeated to the millisecond.

Without root the disk is a plain folder: no power cuts and no full disk.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from agent.emulator import Emulator  # noqa: E402 - found only now
from tests.acceptance.daemon import SECRET, Daemon, Setup  # noqa: E402
from tests.fake_clock import AFTER_POWER_ON, FakeClock  # noqa: E402
from tests.mosquitto import Mosquitto  # noqa: E402
from tests.system import soak_programs as programs  # noqa: E402
from tests.system.disk import Disk  # noqa: E402
from tests.system.oracle import Boot, Chronicle, Oracle, Violation, history  # noqa: E402
from tests.system.soak_faults import NEEDS_DISK, WEIGHTS, Agent, Faults, Network, plan  # noqa: E402
from tests.waiting import free_port, until  # noqa: E402

CONNECTIONS = 4
BATCH = 25
DRAIN = 240.0  # seconds for everything to leave once all is healed
LOOK = 0.5  # seconds between looks at the agent
QUEUE = '\n[queue]\nmax_bytes = "32 MiB"\n'


class Setting(Setup):
    """What agent.toml says here: a bounded queue besides."""

    __slots__ = ()

    def toml(self) -> str:
        return super().toml() + f"connections = {CONNECTIONS}\n" + QUEUE


@dataclass
class Stage:
    """All that takes part."""

    seed: int
    folder: Path
    emulator: Emulator
    record: Path
    broker: Mosquitto
    clock: FakeClock
    disk: Disk | None
    agent: Agent
    chronicle: Chronicle
    gate: programs.Gate
    stop: threading.Event
    crew: list[programs.Program]
    faults: Faults

    @property
    def daemon(self) -> Daemon:
        return self.agent.daemon


def build(stack: ExitStack, folder: Path, seed: int, program: Path | None) -> Stage:
    """Start everything but the agent."""
    disk = None
    if os.geteuid() == 0:
        disk = stack.enter_context(Disk(folder / "disk"))
    record = folder / "record.ndjson"
    emulator = stack.enter_context(Emulator(port=free_port(), record=record, keep=1000))
    broker = stack.enter_context(Mosquitto(folder / "broker"))
    clock = FakeClock(folder)
    clock.reboot(wall=AFTER_POWER_ON)
    state = (disk.path if disk else folder) / "state"
    setup = Setting(
        state=state, http_port=free_port(), endpoint=emulator.url, mqtt_port=broker.port
    )
    daemon = Daemon(directory=folder, setup=setup)
    if program is not None:
        daemon.program = (sys.executable, str(program))
    shim = {name: clock.environ[name] for name in ("LD_PRELOAD", "FAKE_CLOCK")}
    daemon.environ = daemon.environ | shim
    chronicle = Chronicle(boots=[Boot(time.time())])
    agent = Agent(daemon, chronicle)
    stack.callback(daemon.kill)
    agent.up()
    assert not daemon.died(), f"the agent does not start:\n{daemon.tail()}"
    broker.wait_subscribed(programs.TOPIC)
    gate, stop = programs.Gate(), threading.Event()
    wall = [AFTER_POWER_ON - time.time()]
    around = programs.Surroundings(
        seed=seed, http_port=setup.http_port, broker_port=broker.port, spool=state / "spool",
        config=daemon.config, environ=daemon.environ, gate=gate, stop=stop,
        shown=lambda: max(0.0, time.time() + faults.wall),
    )  # fmt: skip
    publisher = programs.MqttProgram(around, 40, rate=10)
    stack.callback(publisher.close)
    crew = [
        programs.EventsProgram(around, 0, rate=2),
        programs.EventsProgram(around, 4, rate=2),
        programs.OwnIdProgram(around, 10, rate=6),
        programs.CollectProgram(around, 20, rate=2),
        publisher,
        programs.SpoolProgram(around, 50, rate=0.7),
        programs.SendProgram(around, 60, rate=0.15),
    ]
    faults = Faults(
        agent=agent, network=Network(emulator), broker=broker, publisher=publisher, clock=clock,
        disk=disk, gate=gate, chronicle=chronicle, stop=stop,
    )  # fmt: skip
    faults.wall = wall[0]
    return Stage(
        seed, folder, emulator, record, broker, clock, disk, agent, chronicle, gate, stop, crew,
        faults,
    )  # fmt: skip


# -- watching ---------------------------------------------------------------------------------------


def watch(stage: Stage, over: threading.Event) -> None:
    """Note when the clock is trusted, the memory, and an end that nobody asked for."""
    while not over.wait(LOOK):
        if not stage.agent.hold.acquire(blocking=False):
            continue
        try:
            if stage.daemon.died():
                began = time.time()
                stage.agent.found_dead()
                stage.chronicle.kills.append((began - LOOK, began))
                stage.agent.up()
            stage.agent.note_memory()
            boot = stage.chronicle.boots[-1]
            if boot.trusted_at is None and (asked(stage) or {}).get("clock", {}).get("trusted"):
                boot.trusted_at = time.time()
        finally:
            stage.agent.hold.release()


def asked(stage: Stage) -> Any:
    """What GET /status says; None if nobody answers."""
    url = f"http://127.0.0.1:{stage.daemon.setup.http_port}/status"
    with suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)
    return None


@contextmanager
def watched(stage: Stage) -> Iterator[None]:
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(stage, over))
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


# -- the run ---------------------------------------------------------------------------------------


def run(stage: Stage, minutes: float, kinds: Sequence[str]) -> None:
    """Faults and programs, and then peace until everything has left."""
    threads = [threading.Thread(target=each.run, name=type(each).__name__) for each in stage.crew]
    with watched(stage):
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        stage.faults.run(plan(stage.seed, minutes, kinds))
        stage.stop.wait(max(0.0, begin + minutes * 60 - time.monotonic()))
        stage.stop.set()
        for thread in threads:
            thread.join()
        for each in stage.crew:
            if each.died is not None:
                raise each.died
        if stage.faults.bugs:
            raise stage.faults.bugs[0]
        drain(stage)
    with stage.agent.hold:
        stage.agent.note_memory()
        if status := stage.daemon.end(timeout=60):
            stage.chronicle.found.append(("ended", f"the last SIGTERM ended it with {status}"))


def drain(stage: Stage) -> None:
    """Wait until nothing waits anywhere."""
    last: list[Any] = [None]
    spool = stage.daemon.setup.state / "spool"
    quiet_since = [0.0]

    def empty() -> bool:
        stage.daemon.flush()
        last[0] = asked(stage)
        time.sleep(0.3)
        if last[0] is None or last[0]["queue"]["events"] or waiting_files(spool):
            quiet_since[0] = time.monotonic()
        # What the broker still has comes within a moment.
        return time.monotonic() - quiet_since[0] > 5

    quiet_since[0] = time.monotonic()
    try:
        until(empty, "", timeout=DRAIN)
    except AssertionError:
        left = {key: last[0].get(key) for key in ("state", "reason", "queue")} if last[0] else None
        text = f"not empty after {DRAIN:.0f} s: {left}, files: {waiting_files(spool)}"
        stage.chronicle.found.append(("drain", text))


def waiting_files(spool: Path) -> list[str]:
    return [each.name for each in spool.iterdir() if each.suffix in (".json", ".ndjson")]


def judge(stage: Stage) -> tuple[Oracle, list[Violation]]:
    """Ask the oracle; what the agent says is read with its own commands."""
    oracle = Oracle(
        books=[book for each in stage.crew for book in each.books],
        chronicle=stage.chronicle,
        seed=stage.seed,
        at_most=CONNECTIONS * BATCH,
    )
    stage.emulator.stop()
    oracle.read_record(stage.record)
    oracle.read_dead(said(stage, "dead", "list", "--json", "--limit", "1000000"))
    oracle.read_status(said(stage, "status", "--json"))
    found = oracle.violations()
    stats = stage.emulator.stats()
    if stats["violations"] or stats["moved"]:
        found.append(Violation("ga4", f"GA4 would have dropped or moved: {stats}"))
    return oracle, [*found, *log_violations(stage)]


def said(stage: Stage, *arguments: str) -> Any:
    done = stage.daemon.command(*arguments)
    assert done.returncode == 0 or done.stdout, f"{arguments}: {done.stderr}"
    return json.loads(done.stdout)


def log_violations(stage: Stage) -> list[Violation]:
    log = stage.daemon.log
    found = []
    for text in ("Traceback", "a bug ends the agent", SECRET):
        if text in log:
            at = log.index(text)
            found.append(
                Violation("log", f"it says {text!r}:\n{log[max(0, at - 500) : at + 3000]}")
            )
    return found


# -- the report -------------------------------------------------------------------------------------


def report(stage: Stage, oracle: Oracle, seconds: float) -> str:
    """What happened, for people."""
    lines = [f"seed {stage.seed}, {seconds:.0f} s with the drain"]
    columns: list[str] = []
    fates: dict[str, Counter[str]] = {}
    for source, counts in oracle.fates():
        fates.setdefault(source, Counter()).update(counts)
        columns += [name for name in counts if name not in columns]
    lines.append("events by source:")
    for source, counts in fates.items():
        told = ", ".join(f"{counts[name]} {name}" for name in columns if counts[name])
        lines.append(f"  {source:26} {told}")
    kinds = Counter(trouble.kind for trouble in stage.chronicle.troubles)
    lines.append("faults: " + _told(kinds))
    boots = stage.chronicle.boots
    trusted = sum(boot.trusted_at is not None for boot in boots)
    lines.append(f"boots: {len(boots)}, of which {trusted} learnt the time")
    lines.append(f"rows delivered: {oracle.rows}, repeats: " + _told(oracle.repeats))
    twice = f"; {oracle.arrived_and_died} of them had arrived" if oracle.arrived_and_died else ""
    lines.append("dead letters: " + _told(oracle.reasons) + twice)
    lines.append(f"requests at the endpoint: {stage.emulator.attempts}")
    lines.append(f"worst delay: {oracle.worst_delay:.1f} s")
    lines.append(f"peak memory of {stage.agent.lives} lives: {stage.agent.peak_kb / 1000:.1f} MB")
    lines.append(f"log: {len(stage.daemon.log.splitlines())} lines")
    return "\n".join(lines)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common()) or "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--without", action="append", default=[], choices=sorted(WEIGHTS))
    parser.add_argument("--only", action="append", default=[], choices=sorted(WEIGHTS))
    parser.add_argument("--program", type=Path, help="in place of the agent: one with a fault")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in options.only or WEIGHTS if kind not in options.without]
    if os.geteuid() != 0:
        kinds = [kind for kind in kinds if kind not in NEEDS_DISK]
        print(f"without root: a plain folder, and no {' nor '.join(NEEDS_DISK)}")
    print(f"soak of {options.minutes:g} minutes, seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ga4-soak-"))
    try:
        bad = soak(folder, options.seed, options.minutes, kinds, options.program)
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    return bad


def soak(
    folder: Path, seed: int, minutes: float, kinds: Sequence[str], program: Path | None
) -> int:
    """Run, judge, report; the exit status."""
    start, began = time.monotonic(), time.time()
    with ExitStack() as stack:
        stage = build(stack, folder, seed, program)
        try:
            run(stage, minutes, kinds)
        except BaseException:
            print(f"the soak itself failed, seed {seed}; what was done:")
            print(history(stage.chronicle, began), flush=True)
            print(stage.daemon.tail())
            raise
        oracle, found = judge(stage)
        if found:
            print(f"VIOLATIONS, seed {seed}; what was done, in seconds from the start:")
            print(history(stage.chronicle, began))
            for each, times in Counter(map(str, found)).items():
                print(f"VIOLATION {each}" + (f" ({times} times)" if times > 1 else ""))
        print(report(stage, oracle, time.monotonic() - start), flush=True)
        return 1 if found else 0


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    sys.exit(main())
