"""``ga4-agent emulator``: a local GA4."""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

KEEP = 1000  # requests in memory; the record file has all


@click.command("emulator")
@click.option("--listen", default="127.0.0.1:8790", metavar="HOST:PORT", show_default=True)
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append what was received to this file as NDJSON.",
)
def command(listen: str, record: Path | None) -> None:
    """Run a local GA4 that takes /mp/collect and /debug/mp/collect.

    It can be told to fail: POST /emulator/fail with {"kind": "status", "status": 503} (or delay,
    hang, cut_before, cut_half, cut_after, login_page, redirect, drip, body), and POST
    /emulator/recover. GET /emulator/stats counts.

    Exit status: 0 it was ended, 1 it could not listen.
    """
    from agent.emulator import Emulator

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.UsageError(f"cannot listen on {listen}: expected HOST:PORT")
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
