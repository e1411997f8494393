"""Draining: watched until it is empty, hopeless or too late; by itself without a daemon."""

import json
from dataclasses import dataclass, field, replace

import pytest

from agent.drain import SETTLED, URGE, BadConfig, Level, Waiting, deliverer, until_empty
from agent.emulator import Emulator, Fault
from agent.ownership import AlreadyOwned, StateLock
from agent.queue.event_queue import EventQueue
from agent.queue.reader import read_snapshot
from tests.waiting import free_port

CAP = 64 * 1024 * 1024
FULL = Level(left=3, sent=0, dead=0, state="draining", reason="", hopeless=False)
EMPTY = replace(FULL, left=0, sent=3, state="ok")
ENVIRON = {"GA4_API_SECRET": "s3cr3t-of-the-stream"}


@dataclass
class Script:
    """A deliverer that says what it is told to, at a time that passes when somebody sleeps."""

    levels: list
    now: float = 0.0
    flushed: list = field(default_factory=list)
    shown: list = field(default_factory=list)

    def level(self):
        return self.levels.pop(0) if len(self.levels) > 1 else self.levels[0]

    def flush(self):
        self.flushed.append(self.now)

    def sleep(self, seconds):
        assert seconds >= 0
        self.now += max(seconds, 1e-6)

    def watch(self, timeout=60.0):
        return until_empty(
            self,
            timeout=timeout,
            on_level=self.shown.append,
            sleep=self.sleep,
            monotonic=lambda: self.now,
        )


def test_it_ends_when_the_queue_is_empty_and_has_shown_each_level():
    script = Script([FULL, replace(FULL, left=1, sent=2), EMPTY])
    assert script.watch() == EMPTY
    assert [level.left for level in script.shown] == [3, 1, 0]


def test_an_empty_queue_is_left_in_peace():
    script = Script([EMPTY])
    assert script.watch() == EMPTY
    assert script.flushed == []


def test_it_urges_on_again_and_again_whatever_the_backoff_says():
    script = Script([replace(FULL, state="offline")])
    script.watch(timeout=4 * URGE)
    assert len(script.flushed) >= 4
    assert script.flushed[0] == 0.0
    gaps = [b - a for a, b in zip(script.flushed, script.flushed[1:], strict=False)]
    assert min(gaps) >= URGE, "but not so often that it becomes a flood"


def test_when_the_time_is_up_it_says_what_is_left_and_why():
    offline = replace(FULL, state="offline", reason="stream main: no route")
    script = Script([offline])
    assert script.watch(timeout=10) == offline
    assert 10 <= script.now < 11


def test_what_only_a_person_can_change_is_said_at_once():
    paused = replace(FULL, state="paused", hopeless=True)
    script = Script([paused])
    assert script.watch() == paused
    assert (script.now, script.flushed) == (0.0, [])


def test_files_in_the_spool_folder_are_waited_for_and_urged_on_like_events():
    script = Script([replace(EMPTY, files=2), replace(EMPTY, left=1), EMPTY])
    assert script.watch() == EMPTY
    assert script.flushed == [0.0]


def test_when_the_time_is_up_it_says_how_many_files_are_left():
    waiting = replace(EMPTY, files=2)
    script = Script([waiting])
    assert script.watch(timeout=20) == waiting
    assert 20 <= script.now < 21


def test_what_only_files_in_trouble_are_left_of_is_said_at_once():
    """A person must do something about them: an hour more would not help."""
    trouble = replace(EMPTY, files=1, in_the_way="cannot read spool/x.json: found a link")
    script = Script([trouble])
    assert script.watch(timeout=3600) == trouble
    assert SETTLED <= script.now < SETTLED + 1


def test_a_file_in_trouble_does_not_keep_the_others_from_leaving():
    trouble = replace(EMPTY, files=2, in_the_way="cannot read spool/x.json: found a link")
    coming = [replace(trouble, sent=number) for number in range(100)]
    failing = [replace(trouble, sent=100, left=1)] * 100
    script = Script([*coming, *failing, replace(EMPTY, sent=101)])
    assert script.watch(timeout=3600).sent == 101


def document(state, *streams, events=1, paused=False, problem=None):
    return {
        "state": state,
        "paused": paused,
        "reason": "",
        "queue": {"events": events},
        "ledger": {"sent": 0, "dead": 0},
        "streams": [{"state": stream} for stream in streams],
        "sources": {"mqtt": {"problem": "no broker"}, "spool": {"problem": problem}},
    }


@pytest.mark.parametrize(
    ("status", "hopeless"),
    [
        (document("paused", "ok", paused=True), True),
        (document("disk_full", "ok", paused=True), True),
        (document("unconfigured"), True),
        (document("misconfigured", "unconfigured"), True),
        (document("unconfigured", "unconfigured", "ok"), False),
        (document("offline", "offline"), False),
        (document("misconfigured", "misconfigured"), False),
    ],
    ids=str,
)
def test_a_pause_and_streams_without_a_secret_are_hopeless(status, hopeless):
    assert Level.of(status).hopeless == hopeless


def test_what_the_spool_source_says_is_in_the_way_only_of_files_that_are_there():
    status = document("degraded", "ok", events=0, problem="cannot read spool/x.json")
    assert Level.of(status, Waiting(files=1)).in_the_way == "cannot read spool/x.json"
    assert Level.of(status, Waiting()).empty
    assert not Level.of(status, Waiting(files=1)).empty
    assert Level.of(document("ok", "ok", events=0), Waiting(files=1)).in_the_way == ""


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path):
    folder = tmp_path / "spool"
    assert Level.of(document("ok", events=0), Waiting.of(folder)).empty, "there is none"
    folder.write_text("a file")
    level = Level.of(document("ok", events=0), Waiting.of(folder))
    assert (level.empty, level.files) == (False, 0)
    assert f"cannot read the spool folder {folder}" in level.in_the_way


# -- without a daemon -----------------------------------------------------------------------


@pytest.fixture
def emulator():
    with Emulator(port=free_port()) as emulator:
        yield emulator


@pytest.fixture
def config(tmp_path, emulator):
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_directory = "{tmp_path / "state"}"\n'
        f'[stream.main]\nmeasurement_id = "G-ABCDE12345"\nendpoint = "{emulator.url}"\n'
        '[delivery]\nmax_delay = "10 ms"\ntimeout = "2 s"\n'
    )
    return path


@pytest.fixture
def state(tmp_path, make_event):
    """60 events wait, of two senders."""
    directory = tmp_path / "state"
    directory.mkdir()
    queue = EventQueue.open(directory, max_bytes=CAP)
    queue.put_many([make_event(f"e{i}", client=f"{i % 2}.1") for i in range(60)])
    queue.close()
    return directory


def drained(config, timeout=20.0, environ=ENVIRON):
    with deliverer(config, environ) as who:
        return until_empty(who, timeout=timeout, on_level=lambda _: None)


def test_without_a_daemon_it_delivers_by_itself(config, state, emulator):
    end = drained(config)
    assert (end.left, end.sent) == (0, 60)
    assert sorted(e["name"] for e in emulator.events()) == sorted(f"e{i}" for i in range(60))
    books = read_snapshot(state).books
    assert (books.sent, books.queued) == (60, 0)
    assert books.balanced


def test_what_lies_in_the_spool_folder_leaves_too(config, state, emulator):
    """`send` ended with 0 for it, and the card is going to be swapped."""
    spool = state / "spool"
    spool.mkdir()
    (spool / "send-1.json").write_text('{"name": "left"}')
    end = drained(config)
    assert (end.left, end.sent) == (0, 61)
    assert [e["name"] for e in emulator.events() if e["name"] == "left"] == ["left"]
    assert list(spool.iterdir()) == []


def rename_in(folder, name, text):
    """As programs should: written under another name first."""
    folder.mkdir(exist_ok=True)
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").rename(folder / name)


def test_a_file_that_looks_unfinished_is_looked_at_until_it_is_taken(config, state, emulator):
    """Its last line has no end: only who looks twice can tell that nobody is writing it."""
    rename_in(state / "spool", "a.ndjson", '{"name": "one"}\n{"name": "two"}')
    end = drained(config)
    assert (end.empty, end.sent) == (True, 62)
    assert list((state / "spool").iterdir()) == []


def test_more_than_the_queue_can_hold_leaves_too(config, state, emulator):
    config.write_text(config.read_text() + '[queue]\nmax_bytes = "4 MiB"\n')
    params = {f"p{n}": "x" * 90 for n in range(20)}
    number = 2000
    rename_in(
        state / "spool", "a.ndjson", f"{json.dumps({'name': 'tap', 'params': params})}\n" * number
    )
    end = drained(config, timeout=60)
    assert (end.empty, end.sent) == (True, 60 + number)
    assert list((state / "spool").iterdir()) == []


def test_what_cannot_be_taken_from_the_spool_folder_is_no_empty_queue(config, state, emulator):
    rename_in(state / "spool", "a.json", '{"name": "good"}')
    (state / "spool/b.json").mkdir()
    end = drained(config, timeout=3600)
    assert (end.left, end.sent, end.files, end.empty) == (0, 61, 1, False)
    assert "b.json: found a folder, expected a file" in end.in_the_way


def test_what_is_no_file_of_events_is_set_aside_and_in_nobodys_way(config, state, emulator):
    rename_in(state / "spool", "a.json", "nonsense")
    assert drained(config).empty
    assert (state / "spool/bad/a.json").exists()


def test_a_spool_folder_that_is_not_used_is_not_looked_into(config, state, emulator):
    config.write_text(config.read_text() + "[spool]\nenabled = false\n")
    rename_in(state / "spool", "a.json", '{"name": "left"}')
    end = drained(config)
    assert (end.empty, end.sent) == (True, 60)
    assert (state / "spool/a.json").exists()


def test_it_finds_the_secrets_that_systemd_hands_to_the_service(config, state, emulator):
    folder = config.parent / "credentials"
    folder.mkdir()
    (folder / "main").write_text("s3cr3t\n")
    assert drained(config, environ={}).left == 0


def test_while_it_delivers_nobody_else_can_take_the_state(config, state):
    with deliverer(config, ENVIRON), pytest.raises(AlreadyOwned):
        StateLock.take(state)
    StateLock.take(state).release()


def test_a_daemon_that_cannot_be_asked_is_not_worked_against(config, state, emulator):
    lock = StateLock.take(state)
    with pytest.raises(AlreadyOwned):
        drained(config)
    lock.release()
    assert not emulator.events()


def test_an_endpoint_that_fails_leaves_everything_and_is_named(config, state, emulator):
    emulator.fail(Fault("status", status=503))
    end = drained(config, timeout=1.0)
    assert (end.left, end.sent, end.state) == (60, 0, "offline")
    assert "503" in end.reason
    books = read_snapshot(state).books
    assert (books.queued, books.requests > 0) == (60, True)


def test_without_a_secret_it_says_so_at_once(config, state):
    end = drained(config, environ={})
    assert end.hopeless
    assert "no api_secret; run: ga4-agent secret set main" in end.reason
    assert end.left == 60


def test_without_a_configuration_it_cannot(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text("nonsense = [")
    with (
        pytest.raises(BadConfig, match=r"agent\.toml"),
        deliverer(path, {"STATE_DIRECTORY": "/nil"}),
    ):
        pass
