"""One HTTP answer, and the bytes it is on the wire. Pure."""

import http.client
import json
from dataclasses import dataclass
from email.utils import formatdate

# A Content-Length beside these would make strict clients complain.
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status, body and further headers; Date, Content-Length and Connection come by themselves."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, *, at: float, close: bool, head_only: bool = False) -> bytes:
        """Return the whole answer in bytes, dated ``at`` (wall seconds).

        It is one piece because a fault may send a part of it or send it byte by byte. The date
        is the emulator's clock, so that a test can have a device whose own clock is wrong.
        """
        lines = [
            f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}",
            f"Date: {formatdate(at, usegmt=True)}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        if self.status not in _BODILESS:
            lines.append(f"Content-Length: {len(self.body)}")
        if close:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if head_only or self.status in _BODILESS else head + self.body


def text_answer(text: str, *, status: int) -> Answer:
    """Return an answer for a person."""
    headers = (("Content-Type", "text/plain; charset=utf-8"),)
    return Answer(status=status, headers=headers, body=f"{text}\n".encode())


def json_answer(document: object) -> Answer:
    """Return a 200 for a program."""
    headers = (("Content-Type", "application/json"),)
    return Answer(status=200, headers=headers, body=json.dumps(document).encode())


def login_answer() -> Answer:
    """Return the page that a captive portal shows instead of what was asked for."""
    page = (
        "<!doctype html><title>Welcome</title><h1>Guest Wi-Fi</h1>"
        '<form method="post" action="/login"><input name="room"><button>Log in</button></form>'
    )
    headers = (("Content-Type", "text/html; charset=utf-8"),)
    return Answer(status=200, headers=headers, body=page.encode())
