"""``agent run`` with a sickness: a program that tests start in place of the daemon.

poison   dies of a row whose event is named poison_row when its request is built, and of a
         message that contains poison_message when it is parsed
bug      raises in the shipper's thread, with a secret in the exception's message
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from agent import daemon
from agent.cli.run import log_to_stderr
from agent.delivery import shipper
from agent.intake import message


def poison() -> None:
    parse, build = message.parse, shipper.build

    def deadly_parse(payload, shape):
        if b"poison_message" in payload:
            os.kill(os.getpid(), signal.SIGKILL)
        return parse(payload, shape)

    def deadly_build(departing, stream):
        if any(each.event.name == "poison_row" for each in departing):
            os.kill(os.getpid(), signal.SIGKILL)
        return build(departing, stream)

    message.parse, shipper.build = deadly_parse, deadly_build


def bug() -> None:
    def broken_triage(answer, stream) -> NoReturn:
        raise KeyError(stream.secret.reveal())

    shipper.triage = broken_triage


if __name__ == "__main__":
    sickness, option, config = sys.argv[1:]
    assert option == "--config"
    {"poison": poison, "bug": bug}[sickness]()
    log_to_stderr(20)
    sys.exit(daemon.run(Path(config)))
