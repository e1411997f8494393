"""``agent run`` on a queue that does not wait for the disk: what the power-cut test must catch."""

import sys
from pathlib import Path

from agent import daemon
from agent.cli.run import log_to_stderr
from agent.queue import event_queue

if __name__ == "__main__":
    option, config = sys.argv[1:]
    assert option == "--config"
    prepare = event_queue.prepare

    def carelessly(connection) -> None:
        prepare(connection)
        connection.execute("PRAGMA synchronous = OFF")

    event_queue.prepare = carelessly
    log_to_stderr(20)
    sys.exit(daemon.run(Path(config)))
