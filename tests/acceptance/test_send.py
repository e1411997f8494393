"""``send`` and ``tail`` with the real daemon: up, down, full, ending, starting."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from agent import control
from agent.clock import wall_us
from agent.control import ControlError, ask
from agent.intake.spool_file import make_folder
from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import hand_in
from tests.acceptance.try_lines import own_params
from tests.intake.stored import events, letters
from tests.waiting import PATIENCE, free_port, until

SENDERS = 6


@pytest.fixture
def setup(setup):
    """Without a stream, so that what was taken stays in the queue."""
    return replace(setup, endpoint=None)


@pytest.fixture
def daemon(make_daemon, setup):
    return make_daemon(setup)


def send(daemon, *arguments):
    return daemon.command("send", *arguments)


def spooled(daemon):
    folder = daemon.setup.state / "spool"
    return sorted(folder.glob("*.json")) if folder.exists() else []


# What exit status 0 means


def test_when_send_has_returned_the_event_is_in_the_queues_file(daemon, setup):
    daemon.start()
    done = send(daemon, "vend", "slot=B4", "price=2.5", "--priority", "high")
    assert (done.returncode, done.stderr) == (0, "")
    daemon.kill()
    [event] = events(setup.state)
    assert event.name == "vend"
    assert own_params({"params": event.params}) == {"slot": "B4", "price": 2.5}
    assert event.priority.name == "HIGH"
    assert event.sender.client_id
    assert spooled(daemon) == []


def test_what_was_sent_with_the_daemon_down_is_taken_at_its_start_with_the_time_of_writing(
    daemon, setup
):
    before = wall_us()
    assert send(daemon, "vend", "slot=B4").returncode == 0
    after = wall_us()
    [path] = spooled(daemon)
    written = json.loads(path.read_bytes())
    until(lambda: wall_us() > after + 100_000, "time to pass")
    daemon.start()
    daemon.wait_received(1)
    until(lambda: not path.exists(), "the file to be removed")
    [event] = events(setup.state)
    assert (event.name, event.event_id) == ("vend", written["event_id"])
    assert before <= event.stamp.wall_us <= after
    assert event.stamp.wall_us == written["stamp"]["wall_us"]
    assert event.stamp.boot_us == written["stamp"]["boot_us"]
    assert event.stamp.boot_id == written["stamp"]["boot_id"]
    assert event.sender.client_id  # the device's own, not the one it was tried with
    assert event.sender.client_id != "1.1"


def test_with_the_daemon_down_file_and_folder_are_on_the_disk_before_the_end(daemon, tmp_path):
    """In this order: the file's bytes, its name, the folder's entry, exit."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("found no strace; apt install strace")
    assert send(daemon, "first").returncode == 0  # the folder is there
    trace = tmp_path / "trace"
    command = [
        strace, "-f", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,rename,renameat,renameat2",
        sys.executable, "-m", "agent", "send", "vend", "--config", str(daemon.config),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=daemon.environ, check=True, timeout=60)
    folder = re.escape(str(daemon.setup.state / "spool"))
    steps = (
        rf"fsync\(\d+<{folder}/\.send-[^>]*\.json\.new>\) += 0",
        rf"rename\w*\(.*{folder}/\.send-[^\"]*\.new\", .*{folder}/send-[^\"]*\.json\".*\) += 0",
        rf"fsync\(\d+<{folder}>\) += 0",
        r"\+\+\+ exited with 0 \+\+\+",
    )
    assert re.search(".*".join(steps), trace.read_text(), re.DOTALL), trace.read_text()


def test_what_the_daemon_refuses_ends_with_1_and_the_reason_whether_it_runs_or_not(daemon):
    reason = "cannot take the event: name: found an empty text, expected the event's name"
    down = send(daemon, "")
    assert not daemon.setup.state.exists()
    daemon.start()
    up = send(daemon, "")
    for done in (up, down):
        assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", reason)
    assert spooled(daemon) == []
    assert daemon.end() == 0
    books = daemon.books()
    assert (books.received, dict(books.refused)) == (0, {"invalid": 1})


def test_a_full_queue_is_told_with_1_and_nothing_is_kept(daemon, setup):
    # Not repaired: that would make large events small.
    full = replace(setup, endpoint=f"http://127.0.0.1:{free_port()}", stream='mode = "off"')
    daemon.write(full.toml() + '[queue]\nmax_bytes = "4 MiB"\non_full = "refuse"\n')
    daemon.start()
    large = {"name": "large", "params": {"x": "x" * 100_000}}
    with pytest.raises(ControlError, match="cannot take the event now"):
        for _ in range(50):
            ask(setup.state, "send", event=large)
    done = send(daemon, "vend", "x=" + "x" * 120_000)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cannot take the event now: ")
    assert spooled(daemon) == []
    assert daemon.status()["ledger"]["refused"] == {"full": 2}


# Races with the daemon's life


# A command in a process of its own each time would take six times as long.
SENDER = """
import os, sys
from agent.cli.send import command

config, number, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
out = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
while True:
    try:
        command.main([f"--config={config}", "race", f"id={number}"])
    except SystemExit as end:
        print(number, end.code or 0, file=out)
    number += step
"""


class Senders:
    """Processes that send numbered events until they are ended; what each was told."""

    def __init__(self, daemon):
        self._daemon = daemon
        make_folder(daemon.setup.state / "spool")
        self.taken = set()
        self.declined = []

    def __enter__(self):
        self._programs = [
            subprocess.Popen(
                [sys.executable, "-c", SENDER, str(self._daemon.config), str(n), str(SENDERS)],
                cwd=ROOT, env=self._daemon.environ, stdout=subprocess.PIPE, text=True,
            )
            for n in range(SENDERS)
        ]  # fmt: skip
        self._threads = [threading.Thread(target=self._read, args=(p,)) for p in self._programs]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for program in self._programs:
            program.kill()
        for thread in self._threads:
            thread.join()
        for program in self._programs:
            program.stdout.close()
            program.wait()

    def more(self, number):
        """Wait until so many more were taken."""
        goal = len(self.taken) + number
        until(lambda: len(self.taken) >= goal or self.declined, "events to be taken")

    def _read(self, program):
        for line in program.stdout:
            number, code = line.rstrip("\n").split(" ", 1)
            if code == "0":
                self.taken.add(int(number))
            else:
                self.declined.append(code)


@pytest.mark.slow
def test_what_is_sent_while_the_daemon_ends_and_starts_is_neither_lost_nor_declined(daemon, setup):
    with Senders(daemon) as senders:
        senders.more(50)
        for _ in range(3):
            daemon.start()
            senders.more(100)
            assert daemon.end() == 0
            senders.more(50)
        daemon.start()
        senders.more(50)
    assert senders.declined == []
    until(lambda: not spooled(daemon), "the spool folder to be emptied")
    assert daemon.end() == 0
    kept = [event.params["id"] for event in events(setup.state)]
    assert senders.taken <= set(kept)
    assert len(kept) == len(set(kept)), "none twice"
    # The last event of each may be on the disk before anybody could be told.
    assert len(set(kept) - senders.taken) <= SENDERS


@pytest.mark.slow
def test_what_is_told_taken_survives_a_kill_of_the_daemon(daemon, setup):
    """A question without an answer may end with 1: then nothing was promised."""
    with Senders(daemon) as senders:
        for _ in range(3):
            daemon.start()
            goal = len(senders.taken) + 100
            until(lambda goal=goal: len(senders.taken) >= goal, "events to be taken")
            daemon.kill()
        daemon.start()
    until(lambda: not spooled(daemon), "the spool folder to be emptied")
    assert daemon.end() == 0
    kept = {event.params["id"] for event in events(setup.state)}
    # What it was just taking when it was killed again and again is set aside, for people.
    aside = {json.loads(letter.payload)["params"]["id"] for letter in letters(setup.state)}
    assert senders.taken <= kept | aside
    assert len(aside) <= 1
    assert set(senders.declined) <= {"cannot send: the daemon gave no answer"}


# Nonsense never kills it


NONSENSE = [
    {"event": None}, {"event": 1}, {"event": "x"}, {"event": []}, {"event": {}}, {"event": [[]]},
    {"event": {"events": []}}, {"event": {"events": [None]}}, {"event": {"name": None}},
    {"event": {"name": "x", "params": []}}, {"event": {"name": "x", "stamp": {}}},
    {"event": {"name": "x", "stamp": {"wall_us": -1, "boot_us": 0, "boot_id": "", "trusted": 1}}},
    {"event": {"name": "x", "stamp": [1]}}, {"event": {"name": "x", "complete": "yes"}},
    {"event": {"raw": 1}}, {"event": {"raw": "%", "source": "x", "reason": "y", "stamp": {}}},
    {"event": {"name": "x", "priority": {}}}, {"event": {"name": "x", "stream": []}},
    {"event": {"name": "x", "timestamp_micros": 1e300}}, {"event": {"name": ["x"]}},
    {"event": {"name": "x"}, "more": 1}, {},
]  # fmt: skip
LOOKS = [{"after": after} for after in (-1, 10**40, 1.5, True, "1", [], {})]


def test_nonsense_is_answered_and_the_daemon_goes_on(daemon, setup):
    daemon.start()
    for arguments in NONSENSE:
        with pytest.raises(ControlError):
            ask(setup.state, "send", **arguments)
    for arguments in LOOKS:
        with suppress(ControlError):
            ask(setup.state, "recent", **arguments)
    for payload in (b"NaN", b"1e999", b"[" * 100_000, b'"\\ud800"', b"\xff", b'{"a":' * 40):
        assert b"error" in raw(setup.state, b'{"command":"send","event":' + payload + b"}\n")
    assert send(daemon, "vend").returncode == 0
    assert daemon.end() == 0
    assert [event.name for event in events(setup.state)] == ["vend"]


def raw(directory, line):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        with control._short_path(directory) as address:
            connection.connect(address)
        connection.sendall(line)
        with connection.makefile("rb") as lines:
            return lines.readline()


# tail


def test_tail_shows_what_comes_in_and_ends_with_1_when_the_daemon_ends(daemon, setup):
    daemon.start()
    hand_in(setup.http_port, [0])  # before anybody looks
    with watching(daemon) as lines:
        seen = []
        number = 0
        while not seen:  # until its first look is over
            number += 1
            hand_in(setup.http_port, [number])
            seen = lines.now()
        assert send(daemon, "vend", "slot=B4").returncode == 0
        assert send(daemon, "").returncode == 1
        lines.wait(lambda: [s for s in lines.seen if s["rejected"]])
        assert daemon.end() == 0
        status, said = lines.end()
        assert (status, said.startswith(f"cannot reach the daemon in {setup.state}: it is ")) == (
            1,
            True,
        )
    items = [item for sighting in lines.seen for item in sighting["items"]]
    ids = [item["params"]["id"] for item in items if item["name"] == "tap"]
    assert ids
    assert 0 not in ids
    assert ids == [*range(ids[0], number + 1)]
    assert items[-1]["name"] == "vend"
    assert lines.seen[-1]["source"] == "send"
    assert "expected the event's name" in lines.seen[-1]["rejected"][0]["description"]


def watching(daemon):
    command = [sys.executable, "-m", "agent", "tail", "--json", "--config", str(daemon.config)]
    return Lines(
        subprocess.Popen(
            command, cwd=ROOT, env=daemon.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    )


class Lines:
    """What a process says, one JSON document a line."""

    def __init__(self, process):
        self._process = process
        self.seen = []

    def __enter__(self):
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._reader.join()
        self._process.__exit__(None, None, None)

    def _read(self):
        for line in self._process.stdout:
            self.seen.append(json.loads(line))

    def now(self):
        """What there is within a moment."""
        with suppress(AssertionError):
            until(lambda: self.seen, "anything", timeout=0.1)
        return self.seen

    def wait(self, condition):
        until(condition, lambda: f"another line than {self.seen}")

    def end(self):
        """Wait for its end: the exit status, and what it said on stderr."""
        status = self._process.wait(PATIENCE)
        self._reader.join()
        return status, self._process.stderr.read().decode()
