"""What is said of one subject: all is well, something is wrong, or it could not be seen."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "trouble", "unseen"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line. ``cure``: what to do, or who can look where this user cannot."""

    subject: str
    verdict: Verdict
    found: str
    cure: str = ""


def ok(subject: str, found: str) -> Diagnosis:
    """Nothing is to be done."""
    return Diagnosis(subject, "ok", found)


def trouble(subject: str, found: str, cure: str = "") -> Diagnosis:
    """Something is to be done; without ``cure``, ``found`` may end in it, after a semicolon."""
    if not cure:
        found, _, cure = found.rpartition("; ") if "; " in found else (found, "", "")
    return Diagnosis(subject, "trouble", found, cure)


def unseen(subject: str, found: str, cure: str) -> Diagnosis:
    """Nobody knows; ``cure`` says who can look."""
    return Diagnosis(subject, "unseen", found, cure)


def worst(all_of_them: Iterable[Diagnosis]) -> Verdict:
    """Trouble outweighs what was not seen, and that outweighs what is well."""
    verdicts = {each.verdict for each in all_of_them}
    order: tuple[Verdict, ...] = ("trouble", "unseen")
    return next((verdict for verdict in order if verdict in verdicts), "ok")
