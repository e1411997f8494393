"""What the rules of a stream make of an event: kept, repaired or refused. Pure.

Everything that changes an event on its way in, after what the agent adds, is decided here:
personal data, debug_mode, and the rules of GA4.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.event import Event
from agent.ga4 import precedence, privacy
from agent.ga4.policy import Policy, StreamKind
from agent.ga4.repair import Mended, repair
from agent.ga4.rules.limits import PARAMS_MAX
from agent.ga4.validate import LENIENT, validate_event
from agent.ga4.violation import Rule, Violation
from agent.jsontext import frozen

Mode = Literal["repair", "strict", "off"]
TIME = ("events", 0, "timestamp_micros")
TRAFFIC_LEFT_OUT = "traffic_type_left_out"  # in the ledger: never change it


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The event as it may be stored.

    ``room``: the params that may still be added. ``repaired``: what was changed, by kind.
    ``noted``: what else the ledger is told. ``broken``: why it must be refused; empty if it need
    not.
    """

    event: Event
    room: frozenset[str]
    repaired: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The rules of one stream."""

    kind: StreamKind = "web"
    mode: Mode = "repair"
    policy: Policy = LENIENT
    debug: bool = False
    keep_pii: bool = False

    def judge(
        self,
        event: Event,
        *,
        added: Sequence[str],
        reserved: Sequence[str],
        now_us: int,
        mended: Sequence[Mended] = (),
    ) -> Judged:
        """Apply the rules.

        ``added``: names of params that the agent put there; ``reserved``: those that it is going
        to add. In which order they give way: ``precedence``. ``mended``: what it took to read the
        event.
        """
        counts: Counter[str] = Counter()
        for each in mended:
            counts[each.kind.value] += each.number
        if not self.keep_pii:
            event, counts["pii_suspected"] = privacy.without_pii(event)
        if not self.debug:
            event, counts["debug_mode"] = privacy.without_debug_mode(event)
        judged = self._by_mode(event, added, reserved, now_us)
        if self.mode == "strict":
            of_reading = (each.violation for each in mended)
            judged = replace(judged, broken=(*of_reading, *judged.broken))
        counts.update(judged.repaired)
        return replace(judged, repaired={kind: n for kind, n in counts.items() if n})

    def _by_mode(
        self, event: Event, added: Sequence[str], reserved: Sequence[str], now_us: int
    ) -> Judged:
        if self.mode == "repair":
            found = repair(
                event, stream=self.kind, now_us=now_us, policy=self.policy,
                added=added, reserved=reserved,
            )  # fmt: skip
            return Judged(
                event=found.event, room=found.kept, repaired=found.kinds, broken=found.left
            )
        judged = _room_made(event, added, reserved)
        if self.mode == "off":
            return judged
        return replace(judged, broken=self._broken(judged.event, now_us))

    def _broken(self, event: Event, now_us: int) -> tuple[Violation, ...]:
        stamp = event.stamp
        if stamp.trusted:
            now_us = max(now_us, stamp.wall_us)  # it was right then, whatever the clock shows now
        found = validate_event(event, stream=self.kind, now_us=now_us, policy=self.policy)
        return tuple(violation for violation in found if not _is_judged_later(violation, event))


def _is_judged_later(violation: Violation, event: Event) -> bool:
    """Whether it is about the time of leaving.

    How late an event will be nobody knows yet, and a stamp that is not corrected may be any time.
    What is in the future by a clock that is right is wrong already.
    """
    if event.time_us is None and violation.place == TIME:
        return True
    early = violation.rule is Rule.TIME_FUTURE and not event.stamp.trusted
    return early or violation.rule is Rule.TIME_PAST


def _room_made(event: Event, added: Sequence[str], reserved: Sequence[str]) -> Judged:
    """Only what the agent adds gives way; over 25 of the publisher's own it all goes."""
    surplus = max(0, len(event.params) + len(reserved) - PARAMS_MAX)
    last = [name for name in added if name == precedence.TRAFFIC_TYPE]
    leaving = [*precedence.of_agent(added, reserved), *last][:surplus]
    if not leaving:
        return Judged(event=event, room=frozenset(reserved))
    params = {name: value for name, value in event.params.items() if name not in leaving}
    return Judged(
        event=replace(event, params=frozen(params)),
        room=frozenset(reserved) - frozenset(leaving),
        repaired={"agent_param_dropped": len(leaving)},
        noted={TRAFFIC_LEFT_OUT: 1} if precedence.TRAFFIC_TYPE in leaving else {},
    )
