"""A real Chromium without a screen, driven over its debugging pipe (NUL-ended JSON)."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.waiting import PATIENCE

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
# Nothing but this machine can be reached, whatever a browser likes to ask at its start.
OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


def program() -> str:
    """The browser's path. In CI it must be there."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        tell = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        tell("found no Chromium: apt install chromium-headless-shell")
    return found


class Browser:
    """One browser with one page."""

    def __init__(self, directory: Path) -> None:
        self._command = [program(), *OPTIONS, f"--user-data-dir={directory / 'profile'}"]
        if os.geteuid() == 0:
            self._command.append("--no-sandbox")  # it has none for root
        self._directory = directory
        self._numbers = itertools.count(1)
        self._session: str | None = None

    def __enter__(self) -> Self:
        commands, self._in = os.pipe()
        out, answers = os.pipe()
        # It reads from descriptor 3 and writes to 4; the shell puts the pipes there.
        places = f'exec "$@" 3<&{commands} 4>&{answers}'
        with (self._directory / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", places, "browser", *self._command],
                pass_fds=(commands, answers),
                env={"PATH": os.environ["PATH"], "HOME": str(self._directory)},
                stdout=log,
                stderr=log,
            )
        os.close(commands)
        os.close(answers)
        self._answers = os.fdopen(out, "rb")
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self._in)  # it ends by itself then
        self._answers.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def call(self, method: str, **params: Any) -> Any:
        """Have the browser do something; its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda said: said.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, url: str) -> None:
        """Go to a page, leaving the present one as if by a link, until it is loaded."""
        said = self.call("Page.navigate", url=url)
        assert not said.get("errorText"), said
        self._next(lambda event: event.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        said = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def touch(self, selector: str) -> None:
        """Touch the middle of an element, as a finger does."""
        box = self.run(
            f"JSON.stringify(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        place = json.loads(box)
        x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _next(self, wanted: Any) -> Any:
        """The next message that is wanted; the timeout of the test bounds it."""
        while True:
            while b"\0" not in self._rest:
                piece = os.read(self._answers.fileno(), 65536)
                log = self._directory / "browser.log"
                assert piece, f"the browser ended:\n{log.read_text()[-2000:]}"
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\0")
            message = json.loads(line)
            if wanted(message):
                return message
