"""Standard output that is full, closed, or has not every letter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.queue.event_queue import EventQueue

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


@pytest.fixture
def state(tmp_path, make_event):
    """A state directory with one event, whose name not every terminal can show."""
    directory = tmp_path / "state"
    directory.mkdir()
    queue = EventQueue.open(directory, max_bytes=64 * 1024 * 1024)
    queue.put_many([make_event("größe😀", params={"x": "y" * 200})])
    queue.close()
    return directory


@pytest.fixture
def config(tmp_path, state):
    path = tmp_path / "agent.toml"
    stream = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'
    path.write_text(f'state_directory = "{state}"\nvolatile = true\n{stream}')
    return path


def run(config, command, *, output, **environ):
    """Run it in a process of its own, with this shell redirection."""
    words = f'{sys.executable} -m agent {command} --config "{config}" {output}'
    return subprocess.run(
        ["sh", "-c", words],
        cwd=ROOT, env={**os.environ, **environ}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("output", "reason"),
    [("> /dev/full", b"No space left on device"), (">&-", b"Bad file descriptor")],
)
@pytest.mark.parametrize(
    "command", ["status", "config show", "queue list --json", "queue export", "drain --help"]
)
def test_what_cannot_be_written_is_said_with_1(config, command, output, reason):
    if output == "> /dev/full" and not FULL.exists():
        pytest.skip("found no /dev/full on this machine")
    done = run(config, command, output=output)
    assert (done.returncode, done.stderr) == (1, b"cannot write the output: " + reason + b"\n")


@pytest.mark.parametrize("output", ["> /dev/full", ">&-"])
def test_an_event_that_is_on_the_disk_was_sent_even_if_nobody_hears_it(config, state, output):
    """Else a script would send it again."""
    done = run(config, "send vend", output=output)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((state / "spool").iterdir())) == 1


def test_who_reads_may_have_had_enough(config):
    done = run(config, "queue export", output="2>&1 | true")
    assert done.stdout == done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_letter_that_the_terminal_has_not_is_no_error(config, encoding):
    done = run(config, "queue list", output="", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = "gr??e?" if encoding == "ascii" else "größe?"
    assert shown.encode(encoding) in done.stdout


def test_programs_get_every_letter_whatever_the_terminal_has(config):
    done = run(config, "queue list --json", output="", PYTHONIOENCODING="latin-1")
    assert json.loads(done.stdout)[0]["name"] == "größe😀"
