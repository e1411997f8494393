"""``agent run`` that looks for its state directory often: no test waits for the usual seconds."""

import sys
from pathlib import Path

from agent import daemon
from agent.cli.run import log_to_stderr

RETRY = 0.5  # seconds

if __name__ == "__main__":
    option, config = sys.argv[1:]
    assert option == "--config"
    log_to_stderr(20)
    sys.exit(daemon.run(Path(config), retry=RETRY))
