"""Decides what becomes of a request and writes it down, before anything is answered."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from agent.emulator.answer import Answer, json_answer, login_answer, text_answer
from agent.emulator.collect import COLLECT, DEBUG_COLLECT, Judgement, judge
from agent.emulator.faults import Due, Fault, FaultPlan, read_faults
from agent.emulator.record import Head, Record, Recorded

CONTROL = "/emulator/"
_LOGIN = "/login"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a request, and the fault that stands in its way, if any."""

    answer: Answer
    due: Due | None


class Desk:
    """What all connections share: the record, the faults in force and the clock.

    A request is recorded before it is answered, so that a sender who has the answer, or who has
    lost it, finds the request in the record.
    """

    def __init__(self, *, record: Record, clock: Callable[[], float]) -> None:
        self.record = record
        self.clock = clock
        self._plan = FaultPlan()

    def fail(self, faults: tuple[Fault, ...]) -> None:
        """Put ``faults`` in force instead of what is; no faults, and all is well."""
        if faults:
            self.record.mark()
        self._plan.replace(faults)

    def cuts_unread(self, head: Head) -> bool:
        """Return whether the request is to be cut before its body is read; recorded if so."""
        if head.path == _LOGIN or not self._plan.take_unread():
            return False
        self._note(head, None, answered="cut_before", taken=None)
        return True

    def refuse(self, head: Head, answer: Answer) -> None:
        """Record a request whose body is not going to be read."""
        self._note(head, None, answered=answer.status, taken=None)

    def judge(self, head: Head, body: bytes) -> Verdict:
        """Return what becomes of a request, which is recorded."""
        judgement = judge(head.query, body, now_us=int(self.clock() * 1_000_000))
        usual = usual_answer(head, judgement)
        taken = judgement if _is_taken(head) else None
        due = None if head.path == _LOGIN else self._plan.take(body.decode(errors="replace"))
        if due is None:
            self._note(head, body, answered=usual.status, taken=taken)
            return Verdict(usual, None)
        fault = due.fault
        self._note(head, body, answered=fault.done(usual), taken=taken if fault.counted else None)
        return Verdict(fault.instead(usual), due)

    def control(self, head: Head, body: bytes) -> Answer:
        """Answer who drives the emulator from another process; never recorded, never failing."""
        match head.method, head.path.removeprefix(CONTROL):
            case "POST", "fail":
                return self._set_faults(body)
            case "POST", "recover":
                self.fail(())
                return Answer(status=204)
            case "GET", "stats":
                return json_answer(self.record.stats())
            case "GET", "events":
                return self._counted_events()
        return text_answer("not found: expected fail, recover, stats or events", status=404)

    def _set_faults(self, body: bytes) -> Answer:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            found = "cannot set the fault: found no JSON, expected an object with a kind"
            return text_answer(found, status=400)
        try:
            self.fail(read_faults(document))
        except ValueError as error:
            return text_answer(str(error), status=400)
        return Answer(status=204)

    def _counted_events(self) -> Answer:
        lines = "".join(f"{json.dumps(event)}\n" for event in self.record.events())
        headers = (("Content-Type", "application/x-ndjson"),)
        return Answer(status=200, headers=headers, body=lines.encode())

    def _note(
        self, head: Head, body: bytes | None, *, answered: int | str, taken: Judgement | None
    ) -> None:
        self.record.add(Recorded.of(head, body, at=self.clock(), answered=answered, taken=taken))


def _is_taken(head: Head) -> bool:
    """Whether GA4 answers 2xx to it, whatever it then makes of it."""
    return head.path == COLLECT and head.method == "POST"


def usual_answer(head: Head, judgement: Judgement) -> Answer:
    """Return what GA4 answers when nothing is wrong; pure."""
    if head.path == _LOGIN:
        return login_answer()
    if head.path not in (COLLECT, DEBUG_COLLECT):
        return text_answer("not found", status=404)
    if head.method != "POST":
        return Answer(status=405, headers=(("Allow", "POST"),))
    if head.path == COLLECT:
        return Answer(status=204)
    messages = [message.document() for message in judgement.messages]
    return json_answer({"validationMessages": messages})
