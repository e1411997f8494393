"""The api_secret of each stream: that there is one, and that others cannot read it.

Whether it is right nobody can tell: GA4 answers the same to a wrong one.
"""

import shlex
import stat
from dataclasses import dataclass

from agent.doctor.diagnosis import Diagnosis, ok, trouble, unseen

UNKNOWABLE = "whether it is right cannot be seen, because GA4 does not tell"
COMPARE = "compare ga4-agent secret fingerprint with a device that works"
OTHERS = stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What was found for a stream.

    ``fingerprint``: empty if there is no secret; ``place``: where it lies, for people; ``mode``:
    of the file, None if it is no file. ``problem``: why it cannot be had, and the cure;
    ``shut``: whether this user may not look where the service may. ``served``: whether the
    daemon has one, None if it did not say.
    """

    stream: str
    fingerprint: str = ""
    place: str = ""
    mode: int | None = None
    problem: str = ""
    shut: bool = False
    served: bool | None = None


def examine(stored: Stored) -> Diagnosis:
    """The one line for a stream."""
    subject = f"secret {stored.stream}"
    if stored.mode is not None and stored.mode & OTHERS:
        found = f"{stored.place} has mode {stored.mode:04o}, so everybody on this device can get it"
        cure = f"run: chmod o-rwx {shlex.quote(stored.place)}; and make a new one in GA4"
        return trouble(subject, found, cure)
    if stored.fingerprint:
        return _present(subject, stored)
    if stored.served:
        return ok(subject, f"the daemon has one, which this user cannot see; {UNKNOWABLE}")
    if stored.shut:
        return unseen(subject, f"{stored.place}: you may not look into it", "run this as root")
    if stored.problem:
        return trouble(subject, stored.problem)
    return trouble(subject, "there is none", f"run: ga4-agent secret set {stored.stream}")


def _present(subject: str, stored: Stored) -> Diagnosis:
    if stored.served is False:
        found = f"there is one in {stored.place}, which the daemon has not read"
        return trouble(subject, found, "run: systemctl restart ga4-agent")
    mode = "" if stored.mode is None else f", mode {stored.mode:04o}"
    found = f"{stored.fingerprint}, from {stored.place}{mode}; {UNKNOWABLE}: {COMPARE}"
    return ok(subject, found)
