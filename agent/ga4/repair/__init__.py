"""Repair: what GA4 would cut, drop or misread is mended beforehand, and counted. Pure.

conversion   a value as another one that means the same
reading      what has to be mended before there is an event
edits        changes to a body, on copies
mender       what becomes of each violation
room         which params give way when there are over 25
event        all of it for an event
"""

from agent.ga4.repair.event import Repaired, repair
from agent.ga4.repair.kind import Kind
from agent.ga4.repair.reading import Mended

__all__ = ["Kind", "Mended", "Repaired", "repair"]
