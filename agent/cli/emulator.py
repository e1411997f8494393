"""``ga4-agent emulator``: a local GA4."""

import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

PORT_MAX = 65_535
KEEP = 1000  # requests in memory; the record file has all


@click.command("emulator")
@click.option("--listen", default="127.0.0.1:8790", metavar="HOST:PORT", show_default=True)
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append what was received to this file as NDJSON.",
)
def command(listen: str, record: Path | None) -> None:
    """Run a local GA4 that takes what GA4 takes.

    POST /mp/collect and /debug/mp/collect are GA4's. GET /emulator/events gives the events that
    it counted as NDJSON, GET /emulator/stats how many.

    It can be told to fail, until POST /emulator/recover:

    \b
        POST /emulator/fail {"kind": "status", "status": 429, "retry_after": "30"}

    kind is one of status, delay, hang, cut_before, cut_half, cut_after, login_page, redirect,
    drip, body. Keys of all kinds: times (how many requests it meets; without it, all) and match
    (only requests whose body holds this text; not with cut_before). status has status and
    retry_after, delay and drip have seconds (drip: for each byte), redirect has location. An
    array of such objects is a sequence.

    Exit status: 0 it was ended, 1 it could not listen or record, 2 wrong usage.
    """  # noqa: D301 - click's mark
    from agent.emulator import Emulator

    host, _, port = listen.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > PORT_MAX:
        raise click.UsageError(
            f"found {listen}, expected HOST:PORT with a port from 0 to {PORT_MAX}"
        )
    emulator = Emulator(host=host.strip("[]"), port=int(port), record=record, keep=KEEP)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # From a thread: setting an Event inside a handler can meet its own lock.
        threading.Thread(target=stop.set).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        emulator.start()
    except OSError as error:
        sys.exit(str(error.strerror))
    click.echo(f"a local GA4 listens on {emulator.url}/mp/collect")
    stop.wait()
    emulator.stop()
