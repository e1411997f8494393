"""``agent run`` that dies by SIGKILL at a moment that no other process can hit.

answered    the endpoint has answered, and the queue has not recorded it
committed   MQTT messages are on the disk, and the broker has not been told
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from paho.mqtt.client import Client

from agent import daemon
from agent.cli.run import log_to_stderr
from agent.queue.event_queue import EventQueue


def die(*_: object, **__: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


if __name__ == "__main__":
    moment, option, config = sys.argv[1:]
    assert option == "--config"
    place, name = {"answered": (EventQueue, "ack_many"), "committed": (Client, "ack")}[moment]
    assert callable(getattr(place, name))
    setattr(place, name, die)
    log_to_stderr(20)
    sys.exit(daemon.run(Path(config)))
