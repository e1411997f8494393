"""The only way out: one POST, one answer. Nothing here tries twice."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from agent import urequests
from agent.ga4.outcome import NoAnswer, Response
from agent.ga4.request import Request

HEADERS = {"Content-Type": "application/json"}
REQUEST_OVERHEAD = 100  # bytes of request line and headers beside the URL, as they go out


@dataclass(frozen=True, slots=True)
class Exchange:
    """The answer, and the bytes of HTTP it cost (TLS and TCP come on top)."""

    answer: Response | NoAnswer
    sent: int
    received: int


class Transport:
    """Posts requests, with a keep-alive connection for each thread that calls it."""

    def __init__(self, *, client: Callable[[], urequests.Client]) -> None:
        self._new_client = client
        self._local = threading.local()

    def post(self, request: Request) -> Exchange:
        """Send once. Trouble on the network is an answer (NoAnswer), never an exception."""
        # The colons of an app id stay as they are, as in the samples: both forms are in use.
        query = urlencode(request.query, safe=":")
        url = f"{request.url}?{query}" if query else request.url
        sent = len(url) + len(request.body) + REQUEST_OVERHEAD
        try:
            client = self._client()
        except OSError as error:
            reason = f"cannot use the certificates ([network] ca_file): {error.strerror}"
            return Exchange(NoAnswer(reason=reason, maybe_sent=False), 0, 0)
        try:
            with client.post(url, data=request.body, headers=HEADERS) as response:
                return _exchange(response, sent)
        except urequests.RequestError as error:
            return Exchange(_no_answer(error), sent if error.maybe_sent else 0, 0)

    def _client(self) -> urequests.Client:
        if not hasattr(self._local, "client"):
            self._local.client = self._new_client()
        client: urequests.Client = self._local.client
        return client

    def close(self) -> None:
        """Close this thread's connection."""
        if hasattr(self._local, "client"):
            self._local.client.close()
            del self._local.client


def _exchange(response: urequests.Response, sent: int) -> Exchange:
    body = response.content
    headers = {name.lower(): value for name, value in (response.headers or {}).items()}
    answer = Response(
        status=response.status_code,
        empty=not body,
        content_type=headers.get("content-type", ""),
        retry_after=headers.get("retry-after", ""),
        date=headers.get("date", ""),
    )
    overhead = sum(len(name) + len(value) + 4 for name, value in headers.items())
    return Exchange(answer, sent, len(body) + overhead)


def _no_answer(error: urequests.RequestError) -> NoAnswer:
    return NoAnswer(
        reason=error.strerror or str(error),  # without "[Errno 111]" before it
        maybe_sent=error.maybe_sent,
        clock_blocks_tls=isinstance(error, urequests.TlsError) and error.not_yet_valid,
    )
