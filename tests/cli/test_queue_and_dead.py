"""`queue` and `dead` on a state directory without a daemon."""

import base64
import json
import os
import pty
import re
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.cli.main import COMMANDS, main
from agent.cli.rows import WHYS
from agent.clock import Clock
from agent.event import Priority, RawMessage, Stamp
from agent.intake.spool_file import line
from agent.ownership import StateLock
from agent.queue.event_queue import EventQueue
from agent.queue.reader import read_snapshot
from tests.cli.running import ga4_agent

ROOT = Path(__file__).parents[2]
CAP = 64 * 1024 * 1024
OLD = Stamp(wall_us=1_000_000_000, boot_us=1, boot_id="boot", trusted=False)
NOBODY = 65534


class Agent:
    """The command line, on a configuration of its own."""

    def __init__(self, directory):
        self.state = directory / "state"
        self.state.mkdir()
        self.config = directory / "agent.toml"
        self.config.write_text(f'state_directory = "{self.state}"\n')

    def run(self, *arguments, status=0):
        """Run a command in this process; what it said on stdout and stderr."""
        result = CliRunner().invoke(main, self._words(arguments), catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    def on_a_terminal(self, *arguments, typed):
        """Run it in a process of its own, with a person at it; its exit status and its output."""
        person, terminal = pty.openpty()
        os.write(person, typed.encode())
        command = [sys.executable, "-m", "agent", *self._words(arguments)]
        done = subprocess.run(
            command, cwd=ROOT, stdin=terminal, capture_output=True, text=True, check=False
        )
        os.close(terminal)
        os.close(person)
        return done.returncode, done.stdout + done.stderr

    def _words(self, arguments):
        return [*arguments, "--config", str(self.config)]

    @property
    def books(self):
        books = read_snapshot(self.state).books
        assert books.balanced
        return books


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path)


@pytest.fixture
def filled(agent, make_event):
    """Thirty events wait, of two names; one is dead, and so is a raw message."""
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    queue.put_many([make_event("refused", params={"why": "x" * 100})])
    queue.bury([row.id for row in queue.lease("main", limit=1)], reason="refused 400")
    raw = RawMessage("mqtt", "malformed", b"\xff\x1b[31mhello", OLD, "found no JSON")
    queue.put_many([raw])
    names = ["tap", "vend"] * 15
    queue.put_many([make_event(name, params={"n": n}) for n, name in enumerate(names)])
    queue.close()
    return agent


def damage(agent, row_id, what="data = 'x'"):
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET {what} WHERE _id = {row_id}")
    queue.close()


def rows(table):
    return table.stdout.splitlines()[1:]


# -- list -----------------------------------------------------------------------------------


def test_list_shows_the_oldest_twenty_and_how_many_more_there_are(filled):
    shown = rows(filled.run("queue", "list"))
    assert len(shown) == 21
    assert shown[-1] == "and 10 more"
    assert shown[0].split()[-4:] == ["main", "tap", '"n":0', "1.1"]


def test_list_says_when_an_event_was_taken_by_the_local_clock(agent, make_event, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    now = Clock().stamp()
    stamps = {"known": replace(now, trusted=True), "unknown": OLD}
    queue.put_many([make_event(name, stamp=stamp) for name, stamp in stamps.items()])
    queue.close()
    known, unknown, note = rows(agent.run("queue", "list"))
    assert re.match(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d  ", known)
    was = datetime.fromtimestamp(now.wall_us / 1e6, UTC).date()
    if was == datetime.now(UTC).date():
        assert known[2] == ":", "of today only the time is shown"
    assert re.match(r"1970-01-01 \d\d:\d\d:\d\d\?", unknown)
    assert note == "? the clock was not known to be right then"


def at_width(agent, columns, *words):
    """What a person sees on a terminal of so many columns."""
    person, terminal = pty.openpty()
    command = [sys.executable, "-m", "agent", *agent._words(words)]
    environ = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    subprocess.run(command, cwd=ROOT, stdout=terminal, env=environ, check=True)
    seen = re.sub(r"\x1b\[[\d;]*m", "", os.read(person, 100_000).decode())
    os.close(terminal)
    os.close(person)
    return [line.rstrip() for line in seen.splitlines()]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_time_event_and_reason_are_whole_on_every_terminal_and_no_line_is_broken(
    agent, make_event, columns
):
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    queue.put_many([make_event("a_letter", params={"why": "x" * 100})])
    queue.bury([row.id for row in queue.lease("main", limit=1)], reason="refused_400")
    queue.put_many([RawMessage("mqtt", "malformed", b"hello" * 20, OLD, "found no JSON " * 9)])
    many = {"params": {"why": "x" * 100}, "client": "4" * 20}
    queue.put_many([make_event("purchase_at_the_till", priority=Priority.HIGH, **many)])
    queue.close()
    heading, letter, raw, _ = at_width(agent, columns, "dead", "list")
    assert {"time", "reason", "event", "why"} <= set(heading.split())
    assert ("stream" in heading) == (columns >= 80)
    assert " refused_400 " in letter
    assert " a_letter" in letter
    assert " malformed " in raw
    assert "(raw message)  found" in raw
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", letter)
    heading, event = at_width(agent, columns, "queue", "list")
    assert heading.split()[:2] == ["time", "priority"]
    assert " high " in event
    assert "purchase_at_the_till" in event
    assert ("4" * 20 in event, "sender" in heading) == (columns >= 120,) * 2


def test_list_takes_a_limit_and_filters(filled):
    assert len(rows(filled.run("queue", "list", "--limit", "3"))) == 4
    vends = rows(filled.run("queue", "list", "--name", "vend", "--limit", "3"))
    assert ["vend" in row for row in vends[:3]] == [True] * 3
    assert vends[3] == "and 12 more"


def test_where_nothing_is_selected_that_is_said(filled, tmp_path):
    output = tmp_path / "export.ndjson"
    no_stream = "found no stream nope; there are: main"
    no_reason = "found no dead letter that died of nope; there are: malformed, refused 400"
    for command, said in {
        "queue list --stream nope": no_stream,
        "queue list --stream nope --name tap": no_stream,
        "queue list --stream main --name nope": (
            "found no waiting event of the stream main named nope"
        ),
        "queue export --stream nope": no_stream,
        "queue purge --yes --stream nope": no_stream,
        f"queue export --name nope --output {output}": "found no waiting event named nope",
        "queue export --name nope": "found no waiting event named nope",
        "dead list --reason nope": no_reason,
        "dead export --reason nope": no_reason,
        "dead requeue --reason nope": no_reason,
        "dead purge --yes --reason nope": no_reason,
    }.items():
        assert filled.run(*command.split()).output == f"{said}\n"
    assert not output.exists()
    filled.run("queue", "purge", "--yes")
    filled.run("dead", "purge", "--yes")
    assert filled.run("queue", "list").output == "nothing waits\n"
    assert filled.run("dead", "list").output == "no dead letters\n"
    assert filled.run("dead", "list", "--reason", "nope").output == (
        "found no dead letter that died of nope\n"
    )


def test_a_stream_that_is_configured_or_has_rows_is_known(filled, make_event):
    """Also one that left the configuration, whose events still wait."""
    queue = EventQueue.open(filled.state, max_bytes=CAP)
    queue.put_many([make_event(stream="old")])
    queue.close()
    with filled.config.open("a") as file:
        file.write('[stream.shop]\nmeasurement_id = "G-ABCDE12345"\n')
    said = filled.run("queue", "list", "--stream", "nope").output
    assert said == "found no stream nope; there are: shop, main, old\n"
    assert filled.run("queue", "list", "--stream", "shop").output == (
        "found no waiting event of the stream shop\n"
    )
    assert len(rows(filled.run("queue", "list", "--stream", "old"))) == 1


def test_a_program_gets_its_array_and_a_person_the_hint(filled):
    ended = ga4_agent("dead", "list", "--json", "--reason", "x", "--config", str(filled.config))
    assert ended.stdout == "[]\n"
    assert "there are: malformed, refused 400" in ended.stderr


def buried(agent, event, reason):
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    queue.put_many([event])
    queue.bury([row.id for row in queue.lease("main", limit=1)], reason=reason)
    queue.close()


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("expired", "happened 2026-11-20 07:11, too late for GA4 (72 h)"),
        ("time_unknown", "nobody can tell when it was"),
        ("crashed", "the agent died again and again"),
        ("refused_400", "the endpoint refused just this event (400), and took others"),
        ("refused_413", "too large for the endpoint (413), even alone"),
    ],
)
def test_every_dead_event_has_a_sentence_that_says_why(agent, make_event, monkeypatch, reason, why):
    monkeypatch.setenv("TZ", "UTC")
    at = datetime(2026, 11, 20, 7, 11, tzinfo=UTC)
    stamp = Stamp(round(at.timestamp() * 1e6), 1, "of-before", trusted=True)
    buried(agent, make_event(stamp=stamp), reason)
    heading, letter = agent.run("dead", "list").stdout.splitlines()
    assert "why" in heading.split()
    assert why in letter
    [listed] = json.loads(agent.run("dead", "list", "--json").stdout)
    assert listed["why"].startswith(why)


@pytest.mark.parametrize("reason", ["crashed", "too_large"])
def test_a_raw_message_without_a_sentence_of_its_own_gets_one(agent, reason):
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    queue.put_many([RawMessage("mqtt", reason, b"x", OLD)])
    queue.close()
    [listed] = json.loads(agent.run("dead", "list", "--json").stdout)
    assert listed["why"] == WHYS[reason]


def test_a_damaged_dead_row_says_that_the_disk_has_lost_it(filled):
    damage(filled, 1, "data = 'x', reason = 'damaged'")
    letter, *_ = rows(filled.run("dead", "list"))
    assert re.search(r"\(damaged\) +the disk has lost what was in it", letter)


def test_an_event_with_a_time_of_its_own_is_listed_with_that(agent, make_event, monkeypatch):
    """What it was late for is not when it arrived, and the clock here has no part in it."""
    monkeypatch.setenv("TZ", "UTC")
    at = datetime(2026, 11, 20, 7, 11, tzinfo=UTC)
    at_us = round(at.timestamp() * 1e6)
    buried(agent, make_event(stamp=OLD, time_us=at_us), "expired")
    _, letter = agent.run("dead", "list").stdout.splitlines()
    assert letter.startswith("2026-11-20 07:11:00  ")
    assert "happened 2026-11-20 07:11, too" in letter
    [listed] = json.loads(agent.run("dead", "list", "--json").stdout)
    assert (listed["time"], listed["timestamp_micros"]) == ("2026-11-20T07:11:00.000+00:00", at_us)
    assert listed["taken"] == "1970-01-01T00:16:40.000+00:00"


def test_list_shows_why_letters_are_dead_and_the_first_bytes_of_raw_messages(filled):
    event, raw, _ = rows(filled.run("dead", "list"))
    assert "refused 400" in event
    assert "…" in event
    assert "malformed" in raw
    assert "mqtt" in raw
    assert r"(raw message)  found no JSON  \xff\x1b[31mhello" in raw
    only = rows(filled.run("dead", "list", "--reason", "refused 400"))
    assert len(only) == 1


def test_nothing_in_an_event_can_steer_the_terminal_or_the_table(agent, make_event):
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    queue.put_many([make_event("\x1b[2J[bold]tap[/bold]\r\n", client="\x07 1.1")])
    queue.close()
    table = agent.run("queue", "list").stdout
    assert "\x1b" not in table
    assert "\x07" not in table
    assert "[bold]tap[/bold]" in table


def test_a_damaged_row_is_shown_as_one(filled):
    damage(filled, 3)
    assert "(damaged)" in rows(filled.run("queue", "list"))[0]
    assert json.loads(filled.run("queue", "list", "--json", "--limit", "1").stdout) == [
        {"id": 3, "damaged": True}
    ]


@pytest.mark.parametrize(
    "what", ["stream = CAST(x'ff' AS TEXT)", "reason = CAST(x'ff' AS TEXT)", "reason = x'ff'"]
)
def test_a_damaged_text_hides_nothing(filled, what):
    damage(filled, 1, what)
    damage(filled, 3, what)
    for group, number in (("queue", 30), ("dead", 2)):
        assert len(json.loads(filled.run(group, "list", "--json").stdout)) == number
        assert len(filled.run(group, "export").stdout.splitlines()) == number
        filled.run(group, "list")


def test_json_is_one_array_of_everything(filled):
    listed = json.loads(filled.run("queue", "list", "--json").stdout)
    assert [item["params"]["n"] for item in listed] == list(range(30))
    assert listed[0]["sender"] == {"client_id": "1.1"}
    assert listed[0]["priority"] == "normal"
    dead = json.loads(filled.run("dead", "list", "--json").stdout)
    assert [item["reason"] for item in dead] == ["refused 400", "malformed"]
    assert base64.b64decode(dead[1]["raw"]) == b"\xff\x1b[31mhello"
    assert dead[1]["clock_trusted"] is False
    assert dead[1]["why"] == "found no JSON"
    assert json.loads(filled.run("queue", "list", "--json", "--stream", "other").stdout) == []


# -- export ---------------------------------------------------------------------------------


def test_an_export_is_a_line_for_each_event_as_the_spool_takes_it(agent, make_event):
    events = [make_event(f"e{i}", priority=Priority.HIGH, time_us=5 + i) for i in range(3)]
    queue = EventQueue.open(agent.state, max_bytes=CAP)
    queue.put_many(events)
    queue.close()
    exported = agent.run("queue", "export").stdout_bytes
    assert exported.splitlines() == [line(event) for event in events]
    assert agent.books.queued == 3


def test_an_export_to_a_file_is_the_same_and_not_for_others(filled, tmp_path):
    output = tmp_path / "stick" / "export.ndjson"
    output.parent.mkdir()
    said = filled.run("queue", "export", "--output", str(output), "--name", "tap")
    assert said.output == f"15 events are in {output}\n"
    assert output.read_bytes() == filled.run("queue", "export", "--name", "tap").stdout_bytes
    assert len(output.read_bytes().splitlines()) == 15
    assert list(output.parent.iterdir()) == [output]
    assert stat.S_IMODE(output.stat().st_mode) & 0o137 == 0


def test_an_export_overwrites_nothing(filled, tmp_path):
    output = tmp_path / "export.ndjson"
    output.write_text("precious")
    said = filled.run("queue", "export", "--output", str(output), status=1)
    assert f"found {output} already there, expected a new name" in said.output
    assert output.read_text() == "precious"


def test_a_link_laid_in_the_way_of_an_export_is_not_followed(filled, tmp_path):
    """Root exports into folders of others, who must not choose what root overwrites."""
    victim, output = tmp_path / "victim", tmp_path / "export.ndjson"
    victim.write_text("precious")
    (tmp_path / ".export.ndjson.new").symlink_to(victim)
    filled.run("queue", "export", "--output", str(output))
    assert victim.read_text() == "precious"
    assert not output.is_symlink()
    assert len(output.read_bytes().splitlines()) == 30


def test_what_a_killed_export_left_is_in_nobodys_way(filled, tmp_path):
    output = tmp_path / "export.ndjson"
    (tmp_path / ".export.ndjson.new").write_bytes(b"x" * 100_000)
    filled.run("queue", "export", "--output", str(output))
    assert len(output.read_bytes().splitlines()) == 30
    assert not (tmp_path / ".export.ndjson.new").exists()


def test_an_export_that_cannot_be_written_leaves_no_half_file(filled, tmp_path):
    said = filled.run("queue", "export", "--output", str(tmp_path / "no" / "where"), status=1)
    assert "cannot export: No such file or directory" in said.output
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as full:
            command = [sys.executable, "-m", "agent", "queue", "export"]
            done = subprocess.run(
                [*command, "--config", str(filled.config)],
                cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (
            1,
            "cannot write the output: No space left on device\n",
        )


def test_damaged_rows_are_left_out_of_an_export_and_that_is_said(filled):
    damage(filled, 3)
    damage(filled, 4)
    said = filled.run("queue", "export", status=1)
    lines = said.output.splitlines()
    assert lines[-1] == "left out 2 damaged rows: nobody can read what is in there"
    assert [json.loads(line)["params"]["n"] for line in lines[:-1]] == list(range(2, 30))


def test_dead_letters_are_exported_with_their_reasons_and_raw_messages_too(filled):
    event, raw = map(json.loads, filled.run("dead", "export").stdout_bytes.splitlines())
    assert (event["name"], event["reason"]) == ("refused", "refused 400")
    assert (raw["source"], raw["reason"]) == ("mqtt", "malformed")


# -- purge and requeue ----------------------------------------------------------------------


def test_without_a_terminal_purge_does_not_guess(filled):
    for group in ("queue", "dead"):
        said = filled.run(group, "purge", status=2)
        assert "cannot ask: found no terminal; say --yes if you are sure" in said.output
    assert (filled.books.queued, filled.books.dead) == (30, 2)


@pytest.mark.parametrize(
    ("typed", "status", "said", "left"),
    [
        ("y\n", 0, "purged 15 waiting events", 15),
        ("n\n", 1, "purged nothing", 30),
        ("\x04", 130, "purged nothing", 30),
    ],
)
def test_purge_says_how_many_and_asks(filled, typed, status, said, left):
    code, output = filled.on_a_terminal("queue", "purge", "--name", "tap", typed=typed)
    assert code == status
    assert "Purge 15 waiting events? They are lost for good. [y/N]:" in output
    assert said in output
    assert filled.books.queued == left


def test_purge_with_yes_drops_what_waits_and_counts_it(filled):
    assert filled.run("queue", "purge", "--yes").output == "purged 30 waiting events\n"
    assert (filled.books.queued, filled.books.dead) == (0, 2)
    assert filled.books.dropped == {"purged": 30}
    assert filled.run("queue", "purge", "--yes").output == "nothing waits\n"


def test_dead_letters_are_purged_by_reason(filled):
    assert filled.run("dead", "purge", "--yes", "--reason", "malformed").output == (
        "purged 1 dead letter\n"
    )
    assert (filled.books.dead, filled.books.queued) == (1, 30)


def test_requeue_lets_events_wait_again_and_keeps_raw_messages(filled):
    said = filled.run("dead", "requeue")
    assert said.output == (
        "requeued 1 event\nleft 1 raw or damaged message: no events to deliver\n"
    )
    assert (filled.books.dead, filled.books.queued) == (1, 31)
    assert "refused" in rows(filled.run("queue", "list"))[0]
    nothing = filled.run("dead", "requeue", status=1)
    assert "requeued 0 events\nleft 1 raw" in nothing.output
    filled.run("dead", "purge", "--yes")
    assert filled.run("dead", "requeue").output == "no dead letters\n"


def test_a_person_at_a_terminal_sees_how_far_it_is(filled):
    person, terminal = pty.openpty()
    command = [sys.executable, "-m", "agent", *filled._words(["queue", "export"])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal) as process:
        exported = process.stdout.read()
        assert process.wait() == 0
    seen = os.read(person, 100_000).decode()
    os.close(terminal)
    os.close(person)
    assert "exporting" in seen
    assert len(exported.splitlines()) == 30


# -- who may --------------------------------------------------------------------------------


def test_what_another_process_works_on_is_left_alone(filled):
    lock = StateLock.take(filled.state)
    said = filled.run("queue", "purge", "--yes", status=1)
    lock.release()
    assert "another ga4-agent works on it" in said.output
    assert filled.books.queued == 30


def test_without_a_queue_it_says_so(agent):
    for command in ("queue list", "queue export", "queue purge --yes", "dead requeue"):
        said = agent.run(*command.split(), status=1)
        assert f"cannot read the queue: found no {agent.state / 'queue.db'}" in said.output


def as_nobody(agent, *arguments):
    """Run a command as a user without rights; its exit status and what it said."""
    agent.run("queue", "list")  # nobody may not even be able to read the modules
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        result = CliRunner().invoke(main, agent._words(arguments))
        os.write(writing, f"{result.exit_code} {result.output}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        status, _, said = told.read().partition(" ")
    os.waitpid(child, 0)
    return int(status), said


def test_a_damaged_file_is_said_to_be_one(agent):
    (agent.state / "queue.db").write_bytes(b"no database" * 1000)
    said = agent.run("queue", "list", status=1).output
    assert said == (
        f"cannot read {agent.state}/queue.db: the file is damaged (file is not a database)\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_file_that_may_not_be_read_is_said_without_numbers():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        agent = Agent(Path(folder))
        EventQueue.open(agent.state, max_bytes=CAP).close()
        agent.state.chmod(0o700)
        status, said = as_nobody(agent, "queue", "list")
    assert status == 1
    assert said == (
        f"cannot read {agent.state}/queue.db: Permission denied; "
        "run this as root or as the user root, who owns it\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("mode", [0o750, 0o755])
def test_who_may_not_is_told_who_may(make_event, mode):
    """With 755 another user can read the queue, but not change it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        agent = Agent(Path(folder))
        StateLock.take(agent.state).release()
        queue = EventQueue.open(agent.state, max_bytes=CAP)  # it stays open: its WAL is there
        queue.put_many([make_event()])
        agent.state.chmod(mode)
        for file in agent.state.iterdir():
            file.chmod(0o640 if file.name == "lock" else 0o644)
        status, said = as_nobody(agent, "queue", "purge", "--yes")
        queue.close()
        assert agent.books.queued == 1
    assert status == 1
    assert "run this as root or as the user root, who owns it" in said


def _commands(group, *path):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in _commands(main)]
)
def test_the_help_of_every_command_says_what_its_exit_status_means(path, command):
    assert "Exit status: 0" in " ".join(command.help.split())


def test_the_list_of_commands_says_of_each_a_whole_sentence():
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["--help"]).stdout
    assert [
        line for line in listed.splitlines() if line.startswith("  ") and line.endswith("...")
    ] == []


def test_commands_are_listed_in_the_order_of_a_day():
    order = [name for name in COMMANDS if name in ("status", "queue", "dead", "flush", "emulator")]
    assert order == ["status", "queue", "dead", "flush", "emulator"]
