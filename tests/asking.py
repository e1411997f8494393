"""What a program on the device sees of the agent over HTTP, and what the agent costs meanwhile."""

import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE, until


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


def ask(port: int, method: str, path: str, body: object = None) -> Answer:
    """One request on a connection of its own. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)
    finally:
        connection.close()


def status_over_http(port: int) -> Any:
    """The document of /status; None while nobody answers."""
    try:
        return ask(port, "GET", "/status").document
    except (OSError, http.client.HTTPException):
        return None


def wait_state(daemon, *states: str) -> Any:
    """Its status over HTTP once it is in one of the states: the control socket may be gone."""
    seen = [None]

    def holds() -> bool:
        assert not daemon.died(), f"the daemon died:\n{daemon.tail()}"
        seen.append(status_over_http(daemon.setup.http_port))
        return seen[-1] is not None and seen[-1]["state"] in states

    until(holds, lambda: f"{states}, not {seen[-1]}\n{daemon.tail()}")
    return seen[-1]


def cpu_s(pid: int) -> float:
    """Seconds of processor time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def at_rest(daemon, *, share: float = 0.25, lines: int = 5) -> Iterator[None]:
    """In the block it neither spins nor fills the journal: share of a processor, lines logged."""
    seconds = 3.0
    cpu, log = cpu_s(daemon.pid), daemon.log.count("\n")
    yield
    pause(seconds)
    assert cpu_s(daemon.pid) - cpu < share * seconds + 0.3
    assert daemon.log.count("\n") - log <= lines, daemon.tail()


def pause(seconds: float) -> None:
    """Time in which something must not happen."""
    threading.Event().wait(seconds)


def refuses_with_the_truth(daemon, *states: str) -> Any:
    """503 to events, with Retry-After and the reason; unhealthy; the state says which trouble."""
    port = daemon.setup.http_port
    until(lambda: status_over_http(port), daemon.tail)
    refused = ask(port, "POST", "/events", [{"name": "tap"}])
    assert refused.status == 503, refused
    seen = wait_state(daemon, *states)
    assert int(refused.headers["retry-after"]) > 0
    assert len(refused.text) > 20
    health = ask(port, "GET", "/healthz")
    assert (health.status, health.text.strip()) == (503, seen["state"])
    assert seen["running"]
    assert seen["reason"]
    return seen
