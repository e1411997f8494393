"""The file with the events that wait."""

from agent.doctor.diagnosis import Diagnosis, ok, trouble, unseen
from agent.queue.reader import Snapshot
from agent.units import counted, format_size

SUBJECT = "queue"


def readable(snapshot: Snapshot) -> Diagnosis:
    """It could be read."""
    books, size = snapshot.books, format_size(snapshot.used_bytes)
    waiting = f"{counted(books.queued, 'event')} waiting, {books.dead:,} dead, {size}"
    if not books.balanced:
        return trouble(SUBJECT, f"the books do not balance: {waiting}", "please report this")
    return ok(SUBJECT, f"the file can be read: {waiting}")


def missing(path: str) -> Diagnosis:
    """There is none, which is so before the first start."""
    return trouble(
        SUBJECT,
        f"there is no {path}",
        "the daemon makes it at its start: systemctl start ga4-agent",
    )


def unreadable(reason: str) -> Diagnosis:
    """It is there and cannot be read."""
    cure = (
        "stop the daemon, keep the file and what lies beside it (-wal, -shm) in another place, and "
        "start it again: it begins with an empty one"
    )
    return trouble(SUBJECT, reason, cure)


def shut(path: str, owner: str) -> Diagnosis:
    """This user may not read it."""
    return unseen(SUBJECT, f"{path}: you may not read it", f"run this as root or as {owner}")
