"""What the rules of a stream make of an event: kept, repaired or refused. Pure.

Everything that changes an event on its way in, after what the agent adds, is decided here:
personal data, debug_mode, and the rules of GA4.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.event import Event
from agent.ga4 import privacy
from agent.ga4.policy import Policy, StreamKind
from agent.ga4.repair import repair
from agent.ga4.rules.limits import PARAMS_MAX
from agent.ga4.validate import LENIENT, validate_event
from agent.ga4.violation import Rule, Violation
from agent.jsontext import frozen

Mode = Literal["repair", "strict", "off"]
TIME = ("events", 0, "timestamp_micros")
LATER = (Rule.TIME_PAST, Rule.TIME_FUTURE)  # delivery knows the right time, the door does not yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The event as it may be stored.

    ``room``: the params that may still be added. ``repaired``: what was changed, by kind.
    ``broken``: why it must be refused; empty if it need not.
    """

    event: Event
    room: frozenset[str]
    repaired: Mapping[str, int] = field(default_factory=dict)
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
        self, event: Event, *, added: Sequence[str], reserved: Sequence[str], now_us: int
    ) -> Judged:
        """Apply the rules.

        ``added``: names of params that the agent put there, the first to give way first.
        ``reserved``: those that it is going to add, the last to give way first.
        """
        counts: Counter[str] = Counter()
        if not self.keep_pii:
            event, counts["pii_suspected"] = privacy.without_pii(event)
        if not self.debug:
            event, counts["debug_mode"] = privacy.without_debug_mode(event)
        judged = self._by_mode(event, added, reserved, now_us)
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
        violations = validate_event(
            judged.event, stream=self.kind, now_us=now_us, policy=self.policy
        )
        broken = tuple(v for v in violations if not _is_judged_later(v, event))
        return replace(judged, broken=broken)


def _is_judged_later(violation: Violation, event: Event) -> bool:
    """Whether it is about the time of leaving; a stamp that is not corrected yet may be any."""
    stamped = event.time_us is None and violation.place == TIME
    return violation.rule in LATER or stamped


def _room_made(event: Event, added: Sequence[str], reserved: Sequence[str]) -> Judged:
    """Only what the agent adds gives way; over 25 of the publisher's own it all goes."""
    surplus = max(0, len(event.params) + len(reserved) - PARAMS_MAX)
    leaving = [*added, *reversed(reserved)][:surplus]
    if not leaving:
        return Judged(event=event, room=frozenset(reserved))
    params = {name: value for name, value in event.params.items() if name not in leaving}
    return Judged(
        event=replace(event, params=frozen(params)),
        room=frozenset(reserved) - frozenset(leaving),
        repaired={"agent_param_dropped": len(leaving)},
    )
