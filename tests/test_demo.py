"""The demo: as lines and on a terminal, with both brokers, ended by hand, and when it is wrong."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.cli.demo import command
from agent.demo.balance import judge
from agent.demo.broker import Broker, NoBroker
from agent.demo.lines import Lines
from agent.demo.pace import AT_ONCE, TO_WATCH, Interrupted, pause_until
from agent.demo.scene import Arrival, Scene, Sentence, Sight
from agent.demo.stage import Stage
from agent.demo.story import EACH, MANY, Story, watching
from agent.demo.view import FLOOR, HEIGHT, WIDTH, View, chart, draw, fits
from agent.emulator import Emulator
from tests.mosquitto import program
from tests.waiting import PATIENCE, free_port

ROOT = Path(__file__).parents[1]
ALL = 2 * (EACH + MANY)
LINE = re.compile(r" *\d+\.\d s  \S.*")
CTRL_C = b"\x03"
SHOW_CURSOR = b"\x1b[?25h"
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[0-9][0-9;]*m")
LEDGER = {"received": 3, "sent": 3, "queued": 0, "dead": 0, "dropped": {}}


# -- what a run leaves behind -----------------------------------------------------------------


def mentioning(place):
    """Processes whose command line names it: the agent's and the broker's name their files."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if str(place).encode() in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def temporary(tmp_path):
    """Where the demo puts its files; when it has ended, nothing of it is left."""
    place = tmp_path / "tmp"
    place.mkdir()
    yield place
    assert mentioning(place) == []
    assert list(place.iterdir()) == []


@contextmanager
def demo(temporary, *arguments, **options):
    """The real command, which is not left running by a test that failed."""
    environ = os.environ | {"TMPDIR": str(temporary)} | options.pop("env", {})
    launcher = options.pop("launcher", ())
    words = (sys.executable, *launcher, "-m", "agent", "demo", *arguments)
    process = subprocess.Popen(words, cwd=ROOT, env=environ, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # it then takes down what it started
        process.wait(PATIENCE)


def lines_of(temporary, *arguments):
    """What it prints into a pipe."""
    with demo(
        temporary, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        out, _ = process.communicate(timeout=60)
    return process.returncode, out


# -- as lines ---------------------------------------------------------------------------------


def told_by(temporary, broker):
    """What a good run with this broker prints: lines, 0 and a balance."""
    status, out = lines_of(temporary, "--broker", broker)
    assert status == 0, out
    assert [line for line in out.splitlines() if not LINE.fullmatch(line)] == []
    assert f"a local GA4, {broker} and the agent are running" in out
    assert f"acknowledged {ALL} = arrived {ALL}, missing 0" in out
    assert out.rstrip().endswith("the books balance")
    return out


def test_with_mosquitto_the_programs_go_on_through_the_kill_and_try_again(temporary):
    program("mosquitto")
    out = told_by(temporary, "mosquitto")
    assert "the agent is dead, the programs go on sending" in out
    assert re.search(r"[1-9]\d* times nobody answered, and a program tried again", out)


def test_with_amqtt_the_kill_comes_when_the_agent_has_everything(temporary):
    """For amqtt sends nothing again."""
    pytest.importorskip("amqtt", reason="needs amqtt: pip install 'ga4-device-agent[demo]'")
    out = told_by(temporary, "amqtt")
    assert out.index(f"{2 * MANY} more events were acknowledged") < out.index("kill -9")
    assert f"the agent is back, with {2 * MANY} events in its queue on disk" in out
    assert "twice 0" in out


def test_without_a_broker_it_says_what_to_install(temporary, monkeypatch):
    monkeypatch.setitem(sys.modules, "amqtt", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoBroker, match=r"apt install mosquitto.*pip install"):
        Broker(directory=temporary, places="")
    with pytest.raises(NoBroker, match=r"found no amqtt \(pip install") as only:
        Broker(directory=temporary, program="amqtt")
    assert "mosquitto" not in str(only.value)


def test_without_a_broker_the_command_says_so_and_ends_with_1(temporary, monkeypatch):
    monkeypatch.setitem(sys.modules, "amqtt", None)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    done = CliRunner().invoke(command, ["--broker", "amqtt"])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "pip install 'ga4-device-agent[demo]'" in done.output


def test_a_broker_that_does_not_start_is_told_with_its_last_words(temporary, tmp_path):
    (tmp_path / "amqtt.py").write_text("raise SystemExit('no room here')\n")
    with demo(
        temporary, "--broker", "amqtt", stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(tmp_path)},
    ) as process:  # fmt: skip
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot start amqtt; it said: no room here" in out


# -- on a terminal ----------------------------------------------------------------------------


class Terminal:
    """A pseudo terminal of a size; what was written to it so far."""

    def __init__(self, *, columns, rows):
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.written = b""

    def read_until(self, text, timeout=60.0):
        """Read until the text came, or for None until nobody writes any more."""
        end = time.monotonic() + timeout
        while text is None or text not in self.written:
            assert time.monotonic() < end, f"no {text} in {self.written[-3000:]}"
            if not select.select([self.ours], [], [], 0.5)[0]:
                continue
            try:
                piece = os.read(self.ours, 65_536)
            except OSError:  # how a terminal says that nobody is left
                piece = b""
            if not piece:
                assert text is None, f"no {text} in {self.written[-3000:]}"
                return
            self.written += piece

    def type(self, keys):
        os.write(self.ours, keys)


@contextmanager
def on_terminal(temporary, *arguments, columns=80, rows=24, **environ):
    """The demo as the foreground of a terminal, so that Ctrl-C reaches all that a shell's does."""
    terminal = Terminal(columns=columns, rows=rows)
    login = "import os, sys; os.login_tty(0); os.execv(sys.executable, sys.orig_argv[:1] + sys.argv[1:])"
    env = {"TERM": "xterm", "COLUMNS": "", "LINES": "", **environ}
    try:
        with demo(
            temporary, *arguments, launcher=("-c", login), stdin=terminal.theirs,
            stdout=terminal.theirs, stderr=terminal.theirs, env=env,
        ) as process:  # fmt: skip
            os.close(terminal.theirs)
            yield terminal, process
    finally:
        os.close(terminal.ours)


@pytest.mark.parametrize(
    ("columns", "rows", "environ"),
    [(80, 24, {"NO_COLOR": "1"}), (120, 40, {})],
    ids=["small without colour", "large"],
)
def test_on_a_terminal_it_is_a_live_view(temporary, columns, rows, environ):
    with on_terminal(temporary, "--fast", columns=columns, rows=rows, **environ) as (terminal, run):
        terminal.read_until(None)
        assert run.wait(PATIENCE) == 0
    shown = terminal.written.decode()
    for words in (
        "programs", "agent", "GA4", "acknowledged", "queue on disk", "arrived", "running", "there",
        "GONE", "KILLED with -9", "vend", "via=MQTT", "via=HTTP", "GA4 is back", "the books balance",
        "ga4-agent check", "README.md",
    ):  # fmt: skip
        assert words in shown
    assert terminal.written.rstrip().endswith(SHOW_CURSOR)
    assert bool(COLOUR.search(terminal.written)) == ("NO_COLOR" not in environ)


@pytest.mark.parametrize(
    ("columns", "rows", "arguments", "environ"),
    [(80, 24, ["--plain"], {}), (80, 24, [], {"TERM": "dumb"}), (WIDTH - 1, HEIGHT, [], {})],
    ids=["told so", "dumb", "narrow"],
)
def test_where_the_view_does_not_fit_it_is_lines(temporary, columns, rows, arguments, environ):
    with on_terminal(temporary, *arguments, columns=columns, rows=rows, **environ) as (terminal, _):
        terminal.read_until(b"running on this machine")
        terminal.type(CTRL_C)
        terminal.read_until(None)
    assert b"programs" not in terminal.written
    assert b"\x1b[" not in terminal.written


# -- ended by hand ----------------------------------------------------------------------------


def test_ctrl_c_on_the_live_view_ends_it_with_130_and_shows_the_cursor_again(temporary):
    with on_terminal(temporary) as (terminal, run):
        terminal.read_until(b"via=")  # events are arriving
        assert len(mentioning(temporary)) == 2, "the agent and the broker run"
        terminal.type(CTRL_C)
        terminal.read_until(None)
        assert run.wait(PATIENCE) == 130
    assert SHOW_CURSOR in terminal.written
    assert b"ended by hand" in terminal.written
    assert b"Traceback" not in terminal.written


@pytest.mark.parametrize(
    ("after", "number"),
    [
        ("", signal.SIGTERM),
        ("GA4 is gone", signal.SIGINT),
        ("kill -9", signal.SIGHUP),
        ("GA4 is back", signal.SIGINT),
    ],
)
def test_ended_by_a_signal_it_leaves_nothing_behind(temporary, after, number):
    """The fixture looks for processes and files."""
    with demo(
        temporary, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = next(line for line in process.stdout if after in line)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, first + rest
    assert "Traceback" not in rest


def test_a_pause_ends_at_once_when_told_to():
    stop = threading.Event()
    pause = pause_until(stop)
    pause(0)
    stop.set()
    with pytest.raises(Interrupted):
        pause(PATIENCE)


# -- when it is wrong -------------------------------------------------------------------------


class Forgetful(Emulator):
    """A GA4 that loses one event for good."""

    def events(self):
        return tuple(e for e in super().events() if e["params"]["number"] != 2 * EACH + 7)


def test_an_event_that_is_lost_is_told_as_missing(tmp_path):
    said = []
    stage = Stage(directory=tmp_path, emulator=Forgetful(port=free_port()))
    story = Story(
        stage=stage, show=Lines(say=said.append).show, pace=AT_ONCE, pause=time.sleep, patience=12
    )
    assert story.tell() is False
    told = "\n".join(said)
    assert "not everything arrived" in told
    assert f"acknowledged {ALL} != arrived {ALL - 1}, missing 1" in told
    assert told.endswith("THE BOOKS DO NOT BALANCE")


def test_the_books_balance_when_all_is_as_promised():
    balance = judge(acknowledged=frozenset({1, 2, 3}), arrived=[1, 2, 3], ledger=LEDGER, ended=0)
    assert balance.right
    assert balance.arrivals == "acknowledged 3 = arrived 3, missing 0, twice 0"
    assert balance.repeats == ""


def test_what_was_handed_in_twice_is_told_and_is_no_fault():
    ledger = LEDGER | {"received": 4, "sent": 4}
    balance = judge(acknowledged=frozenset({1, 2, 3}), arrived=[1, 2, 2, 3], ledger=ledger, ended=0)
    assert balance.right
    assert balance.twice == 1
    assert "handed in again" in balance.repeats


@pytest.mark.parametrize(
    ("acknowledged", "arrived", "ledger", "ended"),
    [
        ({1, 2, 3, 4}, [1, 2, 3], {}, 0),
        ({1, 2}, [1, 2, 3], {}, 0),
        ({1, 2, 3}, [1, 2, 3, 3], {}, 0),
        ({1, 2, 3}, [1, 2, 3], {"received": 4}, 0),
        ({1, 2, 3}, [1, 2, 3], {"sent": 2, "queued": 1}, 0),
        ({1, 2, 3}, [1, 2, 3], {"received": 4, "dead": 1}, 0),
        ({1, 2, 3}, [1, 2, 3], {"received": 4, "dropped": {"evicted": 1}}, 0),
        ({1, 2, 3}, [1, 2, 3], {}, 1),
    ],
    ids=[
        "missing", "never handed in", "sent twice, booked once", "received more", "left queued",
        "dead", "dropped", "ended with a bug",
    ],
)  # fmt: skip
def test_the_books_do_not_balance_when_one_figure_is_wrong(acknowledged, arrived, ledger, ended):
    balance = judge(
        acknowledged=frozenset(acknowledged), arrived=arrived, ledger=LEDGER | ledger, ended=ended
    )
    assert not balance.right
    assert balance.verdict == "THE BOOKS DO NOT BALANCE"


# -- what is drawn ----------------------------------------------------------------------------

SIGHT = Sight(
    broker="mosquitto",
    agent="killed",
    state="",
    ga4_there=False,
    acknowledged=123_456,
    queued=123_456,
    arrived=123_456,
    arrivals=tuple(Arrival("a" * 40, {"screen": "menu" * 40}) for _ in range(12)),
)
SCENE = Scene(
    seconds=123.4,
    sight=SIGHT,
    queue=tuple(range(1000)),
    sentences=tuple(Sentence(float(at), "said " * 30) for at in range(12)),
)
LONGEST = judge(acknowledged=frozenset({1}), arrived=[1, 1], ledger=LEDGER, ended=0)


@pytest.mark.parametrize("balance", [None, LONGEST], ids=["during", "at the end"])
@pytest.mark.parametrize(("width", "height"), [(WIDTH, HEIGHT), (80, 24), (120, 40), (250, 34)])
def test_the_view_fits_the_terminal_however_long_the_words(width, height, balance):
    console = Console(width=width, height=height, force_terminal=True, legacy_windows=False)
    drawn = draw(replace(SCENE, balance=balance), width=width, height=height)
    lines = console.render_lines(drawn, pad=False)
    assert len(lines) <= height
    assert max(sum(part.cell_length for part in line) for line in lines) <= width


def test_the_view_does_not_jump_while_the_story_goes_on():
    console = Console(width=80, height=24, force_terminal=True, legacy_windows=False)

    def rows(scene):
        return len(console.render_lines(draw(scene, width=80, height=24)))

    empty = replace(SIGHT, arrivals=(), agent="not started")
    assert rows(SCENE) == rows(replace(SCENE, sight=empty, sentences=(), queue=()))
    assert rows(SCENE) == rows(replace(SCENE, sentences=SCENE.sentences[:2]))


@given(
    st.lists(st.integers(0, 10_000), max_size=300), st.integers(1, 120), st.integers(1, 5)
)  # fmt: skip
def test_a_chart_keeps_its_size_and_shows_whatever_is_not_empty(lengths, width, rows):
    bars = chart(lengths, width=width, rows=rows)
    assert len(bars) == rows
    assert all(len(bar) <= width for bar in bars)
    assert any(bar.strip() for bar in bars) == any(lengths)
    if max(lengths, default=0) >= FLOOR:
        assert "█" in bars[0]


def test_a_queue_shorter_than_a_batch_is_drawn_as_no_hill():
    assert chart([0, 3, FLOOR // 2], width=5, rows=2) == ["   ", " ▂█"]


def test_a_terminal_that_cannot_show_blocks_gets_lines(tmp_path):
    with (tmp_path / "out").open("w", encoding="latin-1") as out:
        assert not fits(Console(file=out, force_terminal=True, width=80, height=24))
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        assert fits(Console(file=out, force_terminal=True, width=80, height=24, _environ={}))


def test_what_goes_wrong_in_the_view_is_not_hidden():
    looked = threading.Event()

    def look():
        looked.set()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watching(look, every=0.001):
        assert looked.wait(PATIENCE)


def test_a_view_shows_the_last_scene_when_it_has_ended(tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        console = Console(file=out, force_terminal=True, width=80, height=24)
        with View(console=console) as view:
            view.show(replace(SCENE, balance=LONGEST))
    assert "THE BOOKS DO NOT BALANCE" in (tmp_path / "out").read_text("utf-8")


def test_the_pace_to_watch_takes_about_half_a_minute():
    """By its figures: the runs above are at once."""
    handing_in = EACH / TO_WATCH.calm + MANY / TO_WATCH.busy
    slow = handing_in + 4 * TO_WATCH.reading + TO_WATCH.dead + 5 * TO_WATCH.answer
    assert 15 < slow < 25
