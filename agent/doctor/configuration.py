"""The configuration, and the files that it names: the same problems as `check`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.doctor.diagnosis import Diagnosis, ok, trouble, unseen

SUBJECT = "configuration"
AGAIN = "put that right; ga4-agent check tells, systemctl reload ga4-agent applies it"
LAST_GOOD = " (the last one that worked is used in its place)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What became of the file.

    ``problems``: why it was refused, then ``fallback`` tells whether an earlier one stands in.
    ``lies``: ids of examples. ``files``: what is wrong with the files that it names, as this user
    sees it; ``service``: whether the service can do no more than this user. ``lacks``: what it
    wants and there is not.
    """

    path: str
    problems: Sequence[str] = ()
    fallback: bool = False
    streams: Sequence[str] = ()
    lies: Sequence[str] = ()
    files: Sequence[str] = ()
    service: bool = True
    lacks: Sequence[str] = ()


def shut(path: str) -> Diagnosis:
    """This user may not read it."""
    return unseen(SUBJECT, f"{path}: you may not read it", "run this as root")


def examine(loaded: Loaded) -> Iterator[Diagnosis]:
    """One line for each problem, or one that all is well."""
    found = [*_refused(loaded), *_named(loaded)]
    if not found:
        streams = ", ".join(loaded.streams)
        found = [ok(SUBJECT, f"{loaded.path} is good: streams {streams}")]
    yield from found


def _refused(loaded: Loaded) -> Iterator[Diagnosis]:
    for problem in loaded.problems:
        yield trouble(SUBJECT, problem + (LAST_GOOD if loaded.fallback else ""), AGAIN)
    if not loaded.streams and (loaded.fallback or not loaded.problems):
        yield trouble(
            SUBJECT,
            f"{loaded.path}: there is no stream, so events are kept and none is sent",
            "write a table [stream.main] with your measurement_id",
        )
    for lie in loaded.lies:
        yield trouble(SUBJECT, f"{loaded.path}: {lie}", AGAIN)


def _named(loaded: Loaded) -> Iterator[Diagnosis]:
    for problem in loaded.files:
        if loaded.service:
            yield trouble(SUBJECT, problem)
        else:
            yield unseen(SUBJECT, f"not seen as this user: {problem}", "run this as root")
    if loaded.service:
        yield from (trouble(SUBJECT, lack) for lack in loaded.lacks)
