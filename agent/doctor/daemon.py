"""The daemon: whether it runs, and how it says it is."""

from collections.abc import Mapping
from typing import Any

from agent.doctor.diagnosis import Diagnosis, ok, trouble, unseen

SUBJECT = "daemon"
WELL = ("ok", "draining")
MANUAL = "docs/operating.md says what to do in this state"
CURES = {
    "paused": "run: ga4-agent resume",
    "disk_full": "make room on the disk of the state directory",
    "read_only": "see dmesg and mount: often the card is dying",
    "storage_slow": "end the program that holds the queue's file; if there is none, replace the card",
    "login_page": "log this device in to its network, or have it let through",
    "volatile": "put state_directory on a disk; or volatile = true if that is meant",
    "degraded": "mend what the reason names: it is tried again by itself",
    "misconfigured": "put that right; ga4-agent check tells, systemctl reload ga4-agent applies it",
    "clock_blocks_tls": "see the line clock",
    "offline": "see the lines endpoint and clock",
}


def running(document: Mapping[str, Any]) -> Diagnosis:
    """It answered with its status."""
    state, reason = str(document["state"]), str(document["reason"])
    if state in WELL:
        return ok(SUBJECT, f"it runs: {_joined(state, reason)}")
    found, cure = f"it runs, but is {_joined(state, reason)}", CURES.get(state, "")
    return trouble(SUBJECT, found, cure or ("" if "; " in reason else MANUAL))


def absent(reason: str) -> Diagnosis:
    """Nobody listens there."""
    cure = "systemctl start ga4-agent; journalctl -u ga4-agent says why it ended"
    return trouble(SUBJECT, reason, cure)


def silent(reason: str) -> Diagnosis:
    """It listens, and gives no good answer."""
    cure = "journalctl -u ga4-agent says what it does; systemctl restart ga4-agent"
    return trouble(SUBJECT, f"cannot ask it: {reason}", cure)


def shut(owner: str) -> Diagnosis:
    """This user may not ask it."""
    return unseen(SUBJECT, "you may not ask it", f"run this as root or as {owner}")


def _joined(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state
