"""Whoever asks for the status while the daemon ends gets it or nothing, and it still ends with 0."""

import contextlib
import threading

import pytest

from agent.control import ControlError, NotRunning
from tests.acceptance.daemon import Daemon, Setup
from tests.waiting import free_port


@pytest.mark.parametrize("round_", range(3))
def test_to_be_asked_for_its_status_while_it_ends_does_it_no_harm(tmp_path, round_):
    daemon = Daemon(
        directory=tmp_path, setup=Setup(state=tmp_path / "state", http_port=free_port())
    )
    over = threading.Event()

    def ask():
        while not over.is_set():
            with contextlib.suppress(NotRunning, ControlError, OSError, ValueError):
                daemon.ask("status")

    daemon.start()
    askers = [threading.Thread(target=ask) for _ in range(4)]
    try:
        for asker in askers:
            asker.start()
        assert daemon.end() == 0, daemon.tail()
    finally:
        over.set()
        for asker in askers:
            asker.join()
        daemon.kill()
