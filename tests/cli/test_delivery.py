"""``flush``, ``pause`` and ``resume``: what a person is told."""

import signal
import threading

import pytest

from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_directory = "{tmp_path}/state"\n')
    return path


def told(config, command, *, events=0, paused=False):
    """What a command says when a daemon did it."""
    did = []
    status = {"paused": paused, "queue": {"events": events}}
    commands = {command: lambda: did.append(command), "status": lambda: status}
    with daemon(config.parent / "state", **commands):
        ended = ga4_agent(command, "--config", str(config))
    assert did == [command]
    return ended.exit_code, ended.output


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (dict(events=2), (0, "trying now: 2 events waiting\n")),
        (dict(events=0), (0, "nothing waits\n")),
        (
            dict(events=2, paused=True),
            (1, "delivery is paused: nothing leaves before ga4-agent resume\n"),
        ),
    ],
)
def test_flush_says_what_it_tries(config, seen, said):
    assert told(config, "flush", **seen) == said


def test_pause_and_resume_say_what_holds_from_now_on(config):
    code, said = told(config, "pause")
    assert (code, said.startswith("paused: events are taken and kept")) == (0, True)
    assert told(config, "resume", events=1) == (0, "delivering again: 1 event waiting\n")


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("flush", ", or let ga4-agent drain deliver without it"),
        ("pause", ""),
        ("resume", ""),
    ],
)
def test_without_a_daemon_only_flush_has_something_that_would_do_it(
    config, tmp_path, command, advice
):
    ended = ga4_agent(command, "--config", str(config))
    assert (ended.exit_code, ended.stdout) == (1, "")
    reason = f"cannot reach the daemon in {tmp_path}/state: it is not running; start it"
    assert ended.stderr == f"{reason}{advice}\n"


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(config):
    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with daemon(config.parent / "state", status=interrupt):
        ended = ga4_agent("drain", "--config", str(config))
    assert (ended.exit_code, ended.output) == (130, "\nended by Ctrl-C\n")
