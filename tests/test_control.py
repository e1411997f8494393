"""Commands to the running daemon, over its real socket."""

import inspect
import json
import os
import socket
import stat
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from agent import control
from agent.control import SOCKET, ControlError, ControlSocket, NotRunning, ask
from agent.intake.source import SourceUnavailable
from agent.progress import Progress
from tests.waiting import PATIENCE, until

NOBODY = 65534
SOON = 10.0


@contextmanager
def listening(directory, **commands):
    """A control socket that serves; what it called, and its bugs."""
    bugs, called = [], []

    def noted(name, command):
        def call(**arguments):
            called.append(name)
            return command(**arguments)

        # `dict` stands for a command without arguments.
        call.__signature__ = inspect.Signature() if command is dict else inspect.signature(command)
        return call

    made = ControlSocket(
        directory=directory,
        commands={name: noted(name, command) for name, command in commands.items()},
        on_bug=bugs.append,
    )
    stop, progress = threading.Event(), Progress(name="control", patience=60.0)
    thread = threading.Thread(target=made.run, args=(stop, progress))
    thread.start()
    try:
        wait_until(lambda: is_listening(directory))
        yield called, bugs
    finally:
        stop.set()
        touch(directory)
        thread.join(SOON)
        assert not thread.is_alive()


def wait_until(condition):
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never listened")


def touch(directory):
    """Connect and leave: it looks at the stop after each connection."""
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX) as connection,
        control._short_path(directory) as address,
    ):
        connection.connect(address)


def is_listening(directory):
    """Whether the daemon answers; an unknown command does nothing."""
    try:
        ask(directory, "are you there?")
    except NotRunning:
        return False
    except ControlError:
        return True
    raise AssertionError("the daemon knows every command")


def send(directory, line):
    """Whatever bytes; the answer's line."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SOON)
        with control._short_path(directory) as address:
            connection.connect(address)
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as lines:
            return lines.readline()


def test_a_command_is_done_and_its_result_told(tmp_path):
    document = {"state": "ok", "queue": {"events": 3}, "reason": "é"}
    with listening(tmp_path, status=lambda: document) as (called, bugs):
        assert ask(tmp_path, "status") == document
        assert ask(tmp_path, "status") == document
    assert (called, bugs) == (["status", "status"], [])


def test_a_command_without_a_result_is_done_too(tmp_path):
    with listening(tmp_path, flush=lambda: None) as (called, _):
        assert ask(tmp_path, "flush") is None
    assert called == ["flush"]


def test_a_large_document_arrives_whole(tmp_path):
    large = ["x" * 1000] * 1000
    with listening(tmp_path, status=lambda: large):
        assert ask(tmp_path, "status") == large


def test_an_unknown_command_is_answered_with_those_that_there_are(tmp_path):
    with (
        listening(tmp_path, status=dict, flush=dict) as (called, bugs),
        pytest.raises(ControlError, match="expected one of the commands status, flush"),
    ):
        ask(tmp_path, "fulsh")
    assert (called, bugs) == ([], [])


@pytest.mark.parametrize(
    "line",
    [b"\n", b"", b"nonsense\n", b"\xff\n", b"[]\n", b"7\n", b'{"command": ["flush"]}\n', b"{}\n"],
)
def test_nonsense_is_answered_and_does_nothing(tmp_path, line):
    with listening(tmp_path, flush=dict) as (called, bugs):
        assert "expected one of" in json.loads(send(tmp_path, line))["error"]
        assert ask(tmp_path, "flush") == {}
    assert (called, bugs) == (["flush"], [])


def test_nesting_without_end_is_answered_and_does_nothing(tmp_path):
    with listening(tmp_path, flush=dict) as (called, bugs):
        assert "expected one of" in json.loads(send(tmp_path, b"[" * 60_000 + b"\n"))["error"]
    assert (called, bugs) == ([], [])


def test_a_bug_in_a_command_is_loud_and_the_asker_is_told_that_it_was_not_done(tmp_path, capfd):
    def broken():
        raise RuntimeError("a bug")

    with (
        listening(tmp_path, flush=broken) as (_, bugs),
        pytest.raises(ControlError, match="cannot flush: the daemon gave no answer"),
    ):
        ask(tmp_path, "flush")
    assert [str(bug) for bug in bugs] == ["a bug"]


def test_who_goes_away_without_asking_does_no_harm(tmp_path):
    with listening(tmp_path, status=dict) as (_, bugs):
        for _ in range(3):
            touch(tmp_path)
        assert ask(tmp_path, "status") == {}
    assert bugs == []


def test_who_asks_nothing_holds_up_nobody_else(tmp_path):
    with listening(tmp_path, status=dict), socket.socket(socket.AF_UNIX) as silent:
        with control._short_path(tmp_path) as address:
            silent.connect(address)
        assert ask(tmp_path, "status") == {}


# Arguments


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -3, 2.5, 2**70, "", "é \u2028 \n", [], [1, [2]], {}, {"a": {"b": [None]}}],
)
def test_an_argument_arrives_as_what_it_is(tmp_path, value):
    with listening(tmp_path, send=lambda event: event):
        answer = ask(tmp_path, "send", event=value)
    assert (answer, type(answer)) == (value, type(value))


def test_an_argument_that_may_be_left_out_may_be_left_out(tmp_path):
    with listening(tmp_path, recent=lambda after=None: [after]):
        assert ask(tmp_path, "recent") == [None]
        assert ask(tmp_path, "recent", after=3) == [3]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"evnt": 1},
        {"event": 1, "more": 2},
        {"self": 1},
        {"": 1},
        {"a b": 1},
        {"event": 1, "self": 1},
    ],
    ids=str,
)
def test_other_arguments_than_those_of_the_command_do_nothing(tmp_path, arguments):
    with listening(tmp_path, send=lambda event: event) as (called, bugs):
        with pytest.raises(ControlError, match="expected"):
            ask(tmp_path, "send", **arguments)
        assert ask(tmp_path, "send", event=1) == 1
    assert (called, bugs) == (["send"], [])


@pytest.mark.parametrize(
    "value",
    [
        b"NaN",
        b"-Infinity",
        b"1e999",
        b'"\\ud800"',
        b'"\xff"',
        b"9" * 5000,
        b"[" * 100 + b"]" * 100,
        b'{"a":' * 60_000 + b"1" + b"}" * 60_000,
        b"1} {",
        b'"' + b"x" * control.LINE_MAX + b'"',
    ],
    ids=lambda value: value[:10].decode("ascii", "replace"),
)
def test_an_argument_that_cannot_travel_does_nothing(tmp_path, value):
    line = b'{"command": "send", "event": ' + value + b"}\n"
    with listening(tmp_path, send=lambda event: event) as (called, bugs):
        with suppress(ConnectionError):  # of what is too long the end is not even read
            assert "error" in json.loads(send(tmp_path, line))
        assert ask(tmp_path, "send", event=1) == 1
    assert (called, bugs) == (["send"], [])


def test_a_command_that_refuses_says_why_and_that_is_no_bug(tmp_path):
    def refuse(event):
        raise ControlError(f"cannot take {event}: found none, expected one")

    with (
        listening(tmp_path, send=refuse) as (_, bugs),
        pytest.raises(ControlError, match="cannot take 7: found none, expected one"),
    ):
        ask(tmp_path, "send", event=7)
    assert bugs == []


# Daemons that end or have much to do


@contextmanager
def somebody_listening(directory, backlog=5):
    """A socket where the daemon's would be, whose other end the test plays."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(SOON)
        with control._short_path(directory) as address:
            listener.bind(address)
        listener.listen(backlog)
        yield listener


def asking(directory):
    """Ask in a thread; the list is going to hold the answer or what was raised."""
    got = []

    def run():
        try:
            got.append(ask(directory, "status"))
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got


@pytest.mark.parametrize("said", [b"", b'{"resu', b'{"result": {"sta'])
def test_a_daemon_that_is_killed_before_its_answer_is_whole_has_given_none(tmp_path, said):
    with somebody_listening(tmp_path) as listener:
        thread, got = asking(tmp_path)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(said)
        thread.join(SOON)
    assert [type(each) for each in got] in ([ControlError], [NotRunning])


def test_a_daemon_that_ends_with_a_question_waiting_is_not_running(tmp_path):
    with somebody_listening(tmp_path) as listener:
        thread, got = asking(tmp_path)
        listener.accept()[0].close()
        thread.join(SOON)
    assert [type(each) for each in got] in ([ControlError], [NotRunning])


def test_who_asks_while_many_wait_for_the_daemon_waits_too(tmp_path):
    with (
        somebody_listening(tmp_path, backlog=0) as listener,
        socket.socket(socket.AF_UNIX) as first,
    ):
        with control._short_path(tmp_path) as address:
            first.connect(address)
        thread, got = asking(tmp_path)
        thread.join(0.2)  # it may find the queue full
        listener.accept()[0].close()
        assert got == []
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b'{"result": "fine"}\n')
        thread.join(SOON)
    assert got == ["fine"]


def test_it_ends_only_when_no_command_is_being_done_any_more(tmp_path):
    """Behind it the queue is closed: a command that still works on it would end as a bug."""
    begun, go_on, stop = threading.Event(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        go_on.wait(SOON)
        return "done"

    made = ControlSocket(directory=tmp_path, commands={"status": slow}, on_bug=lambda _: None)
    progress = Progress(name="control", patience=60.0)
    running = threading.Thread(target=made.run, args=(stop, progress))
    running.start()
    wait_until(lambda: is_listening(tmp_path))
    thread, got = asking(tmp_path)
    assert begun.wait(SOON)
    stop.set()
    touch(tmp_path)
    running.join(0.3)
    ended_before = not running.is_alive()
    go_on.set()
    for each in (thread, running):
        each.join(SOON)
    assert got == ["done"]
    assert not ended_before


# Where it is


def test_a_directory_of_a_long_name_will_do(tmp_path):
    """A unix address has room for 107 bytes; a state directory may have a longer name."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    with listening(directory, status=lambda: "fine"):
        assert ask(directory, "status") == "fine"
    assert not (directory / SOCKET).exists()


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with listening(tmp_path, status=lambda: "fine"):
        assert ask(Path(), "status") == "fine"


def nothing_there(directory):
    pass


def no_directory(directory):
    directory.rmdir()


def a_file_in_its_place(directory):
    directory.rmdir()
    directory.touch()


def left_by_a_kill(directory):
    with socket.socket(socket.AF_UNIX) as sock, control._short_path(directory) as address:
        sock.bind(address)


@pytest.mark.parametrize("left", [nothing_there, no_directory, a_file_in_its_place, left_by_a_kill])
def test_without_a_daemon_it_says_that_none_is_running(tmp_path, left):
    directory = tmp_path / "state"
    directory.mkdir()
    left(directory)
    with pytest.raises(NotRunning, match=f"cannot reach the daemon in {directory}"):
        ask(directory, "status")


def test_a_socket_left_by_a_kill_does_not_keep_the_next_daemon_from_listening(tmp_path):
    left_by_a_kill(tmp_path)
    with listening(tmp_path, status=lambda: "fine"):
        assert ask(tmp_path, "status") == "fine"


def test_where_it_cannot_listen_it_is_unavailable_and_tried_again(tmp_path):
    """A folder in the socket's place is a fault that a person can mend, and no bug."""
    (tmp_path / SOCKET).mkdir()
    made = ControlSocket(directory=tmp_path, commands={}, on_bug=lambda _: None)
    with pytest.raises(SourceUnavailable, match="cannot listen on"):
        made.run(threading.Event(), Progress(name="control", patience=60.0))


def test_the_socket_is_gone_when_it_has_ended(tmp_path):
    with listening(tmp_path, status=dict):
        assert (tmp_path / SOCKET).exists()
    assert not (tmp_path / SOCKET).exists()
    with pytest.raises(NotRunning):
        ask(tmp_path, "status")


# Who may


def test_the_socket_is_for_its_user_and_group_only(tmp_path):
    before = os.umask(0)
    try:
        with listening(tmp_path, status=dict):
            mode = (tmp_path / SOCKET).stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


class Nobody:
    """Another user of the same group. It must be forked before there are threads."""

    def __init__(self, directory):
        self._go_out, self._go_in = os.pipe()
        self._said_out, self._said_in = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._live(directory)

    def asks(self, *commands):
        os.write(self._go_in, json.dumps(commands).encode() + b"\n")
        with os.fdopen(self._said_out, "rb") as said:
            answers = json.loads(said.readline())
        _, status = os.waitpid(self._pid, 0)
        os.close(self._go_out)
        os.close(self._go_in)
        assert status == 0
        return answers

    def _live(self, directory):
        try:
            os.close(self._go_in)
            os.close(self._said_out)
            # By its name in the working directory: what lies above it may be closed to others.
            os.chdir(directory)
            os.setgroups([])
            os.setuid(NOBODY)
            commands = json.loads(os.read(self._go_out, 4096) or b"[]")
            os.write(self._said_in, json.dumps([self._ask(name) for name in commands]).encode())
            os.write(self._said_in, b"\n")
            os._exit(0)
        finally:
            os._exit(1)

    @staticmethod
    def _ask(command):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SOON)
            try:
                connection.connect(SOCKET)
            except PermissionError:
                return "may not even connect"
            asked = command if isinstance(command, dict) else {"command": command}
            connection.sendall(json.dumps(asked).encode() + b"\n")
            return json.loads(connection.makefile("rb").readline())


@pytest.fixture
def nobody(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    tmp_path.chmod(0o750)
    return Nobody(tmp_path)


def test_another_user_of_the_group_may_ask_the_status_and_nothing_else(nobody, tmp_path):
    commands = {"status": lambda: "fine", "flush": dict, "pause": dict}
    with listening(tmp_path, **commands) as (called, bugs):
        answers = nobody.asks("status", "flush", "pause", "nonsense")
    refused = "only root and the service's own user may"
    assert answers == [
        {"result": "fine"},
        {"error": f"cannot flush: {refused}"},
        {"error": f"cannot pause: {refused}"},
        {"error": "expected one of the commands status, flush, pause"},
    ]
    assert (called, bugs) == (["status"], [])


def test_another_user_of_the_group_may_send_and_neither_look_on_nor_purge(nobody, tmp_path):
    commands = {
        "send": lambda event: event,
        "recent": lambda after=None: after,
        "purge": lambda dead: dead,
        "requeue": dict,
    }
    asked = (
        {"command": "send", "event": 5},
        {"command": "recent"},
        {"command": "purge", "dead": True},
        "requeue",
    )
    with listening(tmp_path, **commands) as (called, bugs):
        answers = nobody.asks(*asked)
    assert answers == [
        {"result": 5},
        *(
            {"error": f"cannot {name}: only root and the service's own user may"}
            for name in ("recent", "purge", "requeue")
        ),
    ]
    assert (called, bugs) == (["send"], [])


def test_a_user_of_another_group_cannot_connect(nobody, tmp_path):
    tmp_path.chmod(0o755)
    with listening(tmp_path, status=dict) as (called, _):
        os.chown(tmp_path / SOCKET, 0, 1)  # now the socket's group is not nobody's
        answers = nobody.asks("status")
    assert answers == ["may not even connect"]
    assert called == []


def test_whoever_takes_all_connections_is_let_go_and_others_are_told_to_come_again(
    tmp_path, monkeypatch
):
    """A program that leaks connections must not take the daemon's descriptors."""
    monkeypatch.setattr(control, "TIMEOUT", 0.5)
    with listening(tmp_path, status=lambda: "fine"), ExitStack() as held:
        for _ in range(control.CONNECTIONS):
            sock = held.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(tmp_path / SOCKET))
        other = held.enter_context(socket.socket(socket.AF_UNIX))
        other.connect(str(tmp_path / SOCKET))
        assert other.recv(100) == control.BUSY
        monkeypatch.setattr(control, "TIMEOUT", SOON)
        assert ask(tmp_path, "status") == "fine", "once the idle ones were let go"


def test_a_byte_now_and_then_does_not_hold_a_connection_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "TIMEOUT", 0.3)
    with listening(tmp_path, status=lambda: "fine"), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / SOCKET))
        pause = threading.Event()
        with pytest.raises(ConnectionError):
            for _ in range(200):
                sock.sendall(b" ")
                pause.wait(0.05)


def test_on_a_card_that_turned_read_only_it_ends_as_it_should(tmp_path, monkeypatch):
    """The socket stays, and who listens next removes it."""
    made = ControlSocket(directory=tmp_path, commands={}, on_bug=pytest.fail)
    stop, progress = threading.Event(), Progress(name="control", patience=60.0)
    thread = threading.Thread(target=made.run, args=(stop, progress))
    thread.start()
    until((tmp_path / SOCKET).exists, "the socket")
    gone = tmp_path.with_name("gone")
    tmp_path.rename(gone)
    tmp_path.write_text("in the place of the directory: to remove anything here fails")
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    tmp_path.unlink()
    gone.rename(tmp_path)
