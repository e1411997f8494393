"""The README's commands, so that they cannot rot: each block is run, or is named as one that is not.

A block of ``sh`` has a comment above it: ``test: run`` (one after the other, in one folder, each
command must end with 0), ``test: background`` (a program that runs while the others are tried),
``test: system`` (needs a checkout, root or systemd: `.ci/run`, and the tests of the service).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.main import COMMANDS
from agent.ga4.departure import AGES_US
from agent.ga4.repair.kind import Kind
from agent.intake.judging import TRAFFIC_LEFT_OUT
from tests.waiting import PATIENCE, free_port, until

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
BLOCKS = [(kind, text) for kind, language, text in BLOCK.findall(README) if language == "sh"]


def test_each_block_of_commands_says_how_it_is_tested():
    assert {kind for kind, _ in BLOCKS} == {"run", "background", "system"}


def test_every_command_is_in_the_table():
    rows = re.findall(r"^\| `ga4-agent ([^`]*)`", README, re.MULTILINE)
    told = {word.strip(",") for row in rows for word in row.split()}
    assert told >= set(COMMANDS)


def test_the_files_that_it_names_are_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert {path.name for path in (ROOT / "device_configs").iterdir()} <= {
        Path(link).name for link in links
    }


def test_the_commands_for_installing_are_four():
    [install] = [text for _, text in BLOCKS if "systemctl enable" in text]
    assert len(install.strip().splitlines()) == 4


@pytest.fixture
def places(tmp_path):
    """The README's places and ports, and those of this test in their stead."""
    return {
        "/tmp/ga4-agent-readme": str(tmp_path / "state"),
        ":8787": f":{free_port()}",
        ":8790": f":{free_port()}",
    }


class Reader:
    """Types what the README says, in a folder of its own."""

    def __init__(self, folder, places):
        self.folder = folder
        self._places = places
        self._running = []
        self.environ = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
        }
        (folder / "bin").mkdir()
        program = folder / "bin/ga4-agent"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n')
        program.chmod(0o755)

    def moved(self, text):
        for place, own in self._places.items():
            text = text.replace(place, own)
        return text

    def run(self, text):
        """Each command must end with 0; what was exported stays so."""
        script = f"set -e\n{self.moved(text)}\nenv > .environ"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        lines = (self.folder / ".environ").read_text().splitlines()
        self.environ |= dict(line.split("=", 1) for line in lines if line.startswith("GA4_"))
        return done.stdout

    def start(self, text):
        """Run it in the background, as in a terminal of its own."""
        command = self.moved(text)
        with (self.folder / "background.log").open("ab") as output:
            self._running.append(
                subprocess.Popen(
                    ["sh", "-c", f"exec env {command}"],
                    cwd=self.folder, env=self.environ, stdout=output, stderr=output,
                )
            )  # fmt: skip

    def end(self):
        for program in reversed(self._running):
            program.terminate()
            program.wait(PATIENCE)


@pytest.fixture
def reader(tmp_path, places):
    if shutil.which("curl") is None:
        pytest.skip("found no curl: apt install curl")
    reader = Reader(tmp_path, places)
    yield reader
    reader.end()


def is_up(places):
    """Whether the daemon takes what a person types next, who is slower than a test."""
    with socket.socket() as sock:
        http = sock.connect_ex(("127.0.0.1", int(places[":8787"][1:]))) == 0
    return http and Path(places["/tmp/ga4-agent-readme"], "spool").is_dir()


def test_a_stranger_can_type_all_of_it(reader, places, tmp_path):
    config = reader.moved('[http]\nlisten = "127.0.0.1:8787"\n')
    for kind, text in BLOCKS:
        if kind == "background":
            reader.start(text)
            if "run" in text:
                until(lambda: is_up(places), "the daemon")
        if kind == "run":
            said = reader.run(text)
            if "TOML" in text:
                with (tmp_path / "agent.toml").open("a") as file:
                    file.write(config)
                assert "is good" in said
    arrived = tmp_path / "arrived.ndjson"

    def names():
        requests = [json.loads(line) for line in arrived.read_text().splitlines()]
        # Where nobody has set the clock, the first request only asks for the time.
        bodies = [request["body"] for request in requests if request["body"] is not None]
        return sorted(event["name"] for body in bodies for event in body["events"])

    until(lambda: names() == ["door", "tap", "vend", "vend"], names)


def shapes(text):
    """The lines without their numbers, and without those that tell of what need not happen."""
    lines = [re.sub(r"[\d.,]+", "N", line.strip()) for line in text.strip().splitlines()]
    return [line for line in lines if "nobody answered" not in line and "twice:" not in line]


def test_the_output_of_the_demo_is_what_it_says():
    [shown] = [text for _, language, text in BLOCK.findall(README) if "the books balance\n" in text]
    done = subprocess.run(
        [sys.executable, "-m", "agent", "demo", "--plain"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert shapes(done.stdout) == shapes(shown)


OPERATING = (ROOT / "docs/operating.md").read_text()


def first_words(heading):
    """What the first column of the table below that heading names."""
    table = OPERATING.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_the_manual_says_of_every_state_what_to_do():
    [listed] = re.findall(r"States, in one word: (.*?)\.\n", README, re.DOTALL)
    assert first_words("States") == set(re.findall(r"`(\w+)`", listed))


def reasons(*patterns):
    """The reasons that the code gives."""
    code = "\n".join(path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    return {found for pattern in patterns for found in re.findall(pattern, code)}


def test_the_manual_explains_every_reason_to_refuse():
    assert first_words("Refused at the door") == reasons(
        r'\brefuse\("(\w+)"', r'on_refused\("(\w+)"', r'"refused\.(\w+)"'
    )


def test_the_manual_explains_every_reason_to_die_and_to_drop():
    given = reasons(
        r'set_aside(?:_unread)?\("(\w+)"', r'dead_letter\(\s*"(\w+)"',
        r'\bbury\([^)]*reason="(\w+)"', r'\bWithheld\("(\w+)"\)',
    )  # fmt: skip
    refused = {f"refused_{status}" for status in (400, 413)}
    assert first_words("Dead letters") == given | refused
    assert first_words("Dropped") == reasons(r'"dropped\.(\w+)"')


def test_the_manual_explains_every_kind_of_repair():
    agents_own = {"pii_suspected", "debug_mode"}
    assert first_words("Repaired") == {str(kind) for kind in Kind} | agents_own


def test_the_manual_explains_everything_that_is_noted():
    others = {f"left_after_{age}" for age in AGES_US} | {TRAFFIC_LEFT_OUT}
    assert first_words("Noted") == reasons(r'"noted\.(\w+)"') | others


def test_the_manual_names_only_commands_that_there_are():
    told = re.findall(r"ga4-agent ([a-z]+)", OPERATING)
    assert set(told) <= set(COMMANDS)
