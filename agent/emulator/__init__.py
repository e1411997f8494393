"""A local GA4: for the tests, for ``ga4-agent demo`` and for ``ga4-agent emulator``.

collect     what GA4 makes of a request; pure
wording     what it says of that, in its own words where they are known; pure
answer      one HTTP answer, and its bytes; pure
faults      how GA4 and the way to it can fail, and which request meets which fault
record      what was received: in memory for tests, as NDJSON for other programs
desk        decides what becomes of a request and writes it down; knows no socket
handler     one connection: reads requests, answers them or misbehaves
listener    the listening socket, its connections and their threads
server      ``Emulator``, which puts the parts together
"""

from agent.emulator.collect import validate
from agent.emulator.faults import Fault
from agent.emulator.record import Recorded
from agent.emulator.server import Emulator
from agent.emulator.wording import Message

__all__ = ["Emulator", "Fault", "Message", "Recorded", "validate"]
