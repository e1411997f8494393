"""The configuration that a command is given: found, missing, or no file at all."""

import os

import pytest

from agent import boot_config
from tests.cli.running import ga4_agent

LOOKING = [
    "status", "queue list", "queue export", "queue purge --yes", "dead list", "dead export",
    "dead requeue", "dead purge --yes", "tail", "flush", "pause", "resume", "drain", "send vend",
]  # fmt: skip


@pytest.mark.parametrize("command", LOOKING)
def test_a_configuration_that_was_named_and_is_not_there_ends_it_with_2(
    command, tmp_path, monkeypatch
):
    """Else it would look at, or purge, another agent's queue."""
    path = tmp_path / "agent.toml"
    told = f"{path}: found no such file, expected a readable configuration file"
    ended = ga4_agent(*command.split(), "--config", str(path))
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(told)
    monkeypatch.setenv("GA4_AGENT_CONFIG", str(path))
    ended = ga4_agent(*command.split())
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(told)


@pytest.mark.parametrize("command", ["check", "config show", "status", "send vend"])
def test_a_pipe_is_no_configuration_and_nobody_waits_for_it(command, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    ended = ga4_agent(*command.split(), "--config", str(path))
    assert ended.exit_code == 2
    assert f"{path}: found a pipe, expected a readable configuration file" in ended.stderr


def test_a_broken_configuration_still_says_where_the_agent_is(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_directory = "{tmp_path}/state"\n[htpp]\n')
    ended = ga4_agent("status", "--config", str(path))
    assert ended.exit_code == 1
    assert ended.stderr == f"cannot read the queue: found no {tmp_path}/state/queue.db\n"


@pytest.fixture
def without_any(tmp_path, monkeypatch):
    """No configuration at the usual place, and the state directory that systemd would name."""
    monkeypatch.setattr(boot_config, "DEFAULT", tmp_path / "etc/agent.toml")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.delenv("GA4_AGENT_CONFIG", raising=False)
    return tmp_path


def test_without_any_configuration_it_says_where_it_looks_if_it_finds_nothing_there(without_any):
    ended = ga4_agent("status")
    assert ended.exit_code == 1
    said, why = ended.stderr.splitlines()
    assert said == f"no {without_any}/etc/agent.toml; looking into {without_any}/state"
    assert why.startswith("cannot read the queue: found no ")


def test_without_any_configuration_the_usual_directory_is_looked_into_as_it_is(without_any):
    (without_any / "state").mkdir()
    (without_any / "state/queue.db").write_bytes(b"no database" * 1000)
    ended = ga4_agent("status")
    assert "looking into" not in ended.stderr
    assert "the file is damaged" in ended.stderr
