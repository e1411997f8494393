"""What becomes of each violation: a value that means the same, a shorter text, or nothing.

What is not changed here is left: whoever sent it has to mend it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.event import Event
from agent.ga4.checks.params import longest
from agent.ga4.identifiers import is_identifier
from agent.ga4.policy import Policy, StreamKind
from agent.ga4.repair.conversion import as_micros, as_number, as_text, cut
from agent.ga4.repair.edits import Edits
from agent.ga4.repair.kind import Kind
from agent.ga4.repair.room import surplus
from agent.ga4.rules import fields, limits
from agent.ga4.rules.recommended import ITEM_NAMED_BY, RECOMMENDED, UNDESCRIBED
from agent.ga4.violation import Place, Rule, Violation

ITEMS: Place = ("events", 0, "params", "items")
TIME: Place = ("events", 0, "timestamp_micros")

# Not here: `room` sees to numbers, delivery to what is too old or early, and a body's size and
# depth have no culprit.
ELSEWHERE = frozenset(
    (Rule.TOO_MANY, Rule.TIME_PAST, Rule.TIME_FUTURE, Rule.BODY_SIZE, Rule.UNWRITABLE)
)
NOT_THERE = frozenset((Rule.MISSING, Rule.EMPTY))
SAYS_NOTHING = (None, "")
TRUTHS = {"true": True, "false": False}


PARTS: Mapping[object, Kind] = {
    "device": Kind.DEVICE_DROPPED,
    "user_location": Kind.LOCATION_DROPPED,
    "user_data": Kind.USER_DATA_DROPPED,
}


class Mender:
    """Mends the violations of an event, and counts in ``kinds`` what it did."""

    def __init__(self, *, event: Event, stream: StreamKind, policy: Policy) -> None:
        described = RECOMMENDED.get(event.name, UNDESCRIBED)
        self._own_id = "app_instance_id" if stream == "app" else "client_id"
        self._money = described.money or event.params.get("currency") not in SAYS_NOTHING
        self._required = described.required
        self._policy = policy
        self._causes: dict[Place, Violation] = {}
        self.kinds: Counter[Kind] = Counter()

    def mend(self, edits: Edits, violations: Iterable[Violation]) -> None:
        """One round: what it changes may break other rules."""
        for violation in violations:
            if violation.rule not in ELSEWHERE and not edits.dropped(violation.place):
                self._mend(edits, violation)

    def make_room(self, edits: Edits, *, added: Sequence[str], reserved: Sequence[str]) -> None:
        """Take out what is too many, once the rest is mended. See ``room.surplus``."""
        found = surplus(
            edits.body, required=self._required, policy=self._policy,
            added=added, reserved=reserved,
        )  # fmt: skip
        for place, kind in found:
            edits.drop(place)
            self.kinds[kind] += 1

    def reason(self, violation: Violation) -> Violation:
        """Why this could not be mended: what is missing may have been there, but wrong."""
        if violation.rule in NOT_THERE:
            return self._causes.get(violation.place, violation)
        return violation

    def _mend(self, edits: Edits, violation: Violation) -> None:
        match violation.place:
            case ("events", 0, "params", "items", int(), str(name)):
                self._item_param(edits, violation, name)
            case ("events", 0, "params", "items", int()):
                self._drop(edits, violation, Kind.ITEM_DROPPED)
            case ("events", 0, "params", str(name)):
                self._param(edits, violation, name)
            case ("events", 0, "timestamp_micros"):
                self._time(edits, violation, None)
            case (str(key), *rest) if key != "events":
                self._mend_sender(edits, violation, key, *rest)

    def _mend_sender(self, edits: Edits, violation: Violation, key: str, *rest: str | int) -> None:
        match (key, *rest):
            case ("user_properties", *_):
                self._user_property(edits, violation, *rest)
            case ("consent", *_):
                self._consent(edits, violation, *rest)
            case ("non_personalized_ads",):
                self._ads(edits, violation)
            case ("client_id" | "app_instance_id" | "user_id",):
                self._id(edits, violation, key)
            case ("timestamp_micros",):
                self._time(edits, violation, Kind.KEY_DROPPED)
            case _:
                unknown = violation.rule is Rule.UNKNOWN_KEY
                kind = Kind.KEY_DROPPED if unknown else PARTS.get(key, Kind.KEY_DROPPED)
                self._drop(edits, violation, kind)

    # -- the event ----------------------------------------------------------------------------

    def _param(self, edits: Edits, violation: Violation, name: str) -> None:
        if violation.rule in NOT_THERE:
            return
        value = edits.at(violation.place)
        if violation.rule is Rule.TIME_PLACE:
            self._move_time(edits, violation, value)
        elif name == "timestamp_micros":
            self._time(edits, violation, Kind.PARAM_DROPPED)
        elif self._is_amount(name, value) and as_number(value) is None:
            return  # a sale without its amount would be another sale
        else:
            most = longest(name, self._policy)
            self._value(edits, violation, name, most, Kind.PARAM_DROPPED)

    def _is_amount(self, name: str, value: Any) -> bool:
        return name == "value" and self._money and value not in SAYS_NOTHING

    def _item_param(self, edits: Edits, violation: Violation, name: str) -> None:
        most = self._policy.param_value_max
        self._value(edits, violation, name, most, Kind.ITEM_PARAM_DROPPED)

    def _value(
        self, edits: Edits, violation: Violation, name: str, most: int | None, kind: Kind
    ) -> None:
        value, rule, named = edits.at(violation.place), violation.rule, is_identifier(name)
        if rule in (Rule.TEXT_LENGTH, Rule.UNICODE) and not named:
            self._put(edits, violation.place, cut(value, most, self._policy), Kind.TEXT_CUT)
            return
        better: Any = None
        if rule is Rule.TEXT_EXPECTED:
            better = as_text(value, exact=named)
        elif rule is Rule.NUMBER_EXPECTED:
            better = as_number(value)
        if better is not None:
            self._put(edits, violation.place, better, Kind.CONVERTED)
        else:
            # An item's identifiers are params of an item first of all.
            named = named and kind is Kind.PARAM_DROPPED
            self._drop(edits, violation, Kind.IDENTIFIER_DROPPED if named else kind)

    # -- times --------------------------------------------------------------------------------

    def _time(self, edits: Edits, violation: Violation, instead: Kind | None) -> None:
        """``instead``: the kind of dropping it where no time can be made of it, if it may be."""
        value = edits.at(violation.place)
        micros = as_micros(value)
        if micros is not None and micros != value:
            other = Kind.TIME_UNIT if violation.rule is Rule.TIME_UNIT else Kind.CONVERTED
            self._put(edits, violation.place, micros, other)
        elif instead is not None:
            self._drop(edits, violation, instead)

    def _move_time(self, edits: Edits, violation: Violation, value: Any) -> None:
        micros = as_micros(value)
        if micros is None or edits.at(TIME) is not None:
            self._drop(edits, violation, Kind.PARAM_DROPPED)
            return
        self._drop(edits, violation, Kind.TIME_MOVED)
        edits.put(TIME, micros)

    # -- the sender ---------------------------------------------------------------------------

    def _id(self, edits: Edits, violation: Violation, key: str) -> None:
        if violation.rule is Rule.MISSING:
            if key == "user_id":  # GA4 ignores user_data without it, says the policy
                edits.drop(("user_data",))
                self.kinds[Kind.USER_DATA_DROPPED] += 1
            return
        text = as_text(edits.at(violation.place), exact=True)
        if text is not None and violation.rule is Rule.TEXT_EXPECTED:
            self._put(edits, violation.place, text, Kind.CONVERTED)
        elif key != self._own_id:
            self._drop(edits, violation, Kind.IDENTIFIER_DROPPED)

    def _user_property(self, edits: Edits, violation: Violation, *rest: str | int) -> None:
        match rest:
            case (str(name), "value") if violation.rule is not Rule.MISSING:
                value = edits.at(violation.place)
                if not isinstance(value, str) or is_identifier(name):
                    self._drop_property(edits, violation)
                    return
                text = cut(value, limits.USER_PROPERTY_VALUE_MAX, self._policy)
                self._put(edits, violation.place, text, Kind.TEXT_CUT)
            case (_, "timestamp_micros"):
                self._time(edits, violation, Kind.KEY_DROPPED)
            case (_, key) if key != "value":
                self._drop(edits, violation, Kind.KEY_DROPPED)
            case _:
                self._drop_property(edits, violation)

    def _drop_property(self, edits: Edits, violation: Violation) -> None:
        edits.drop(violation.place[:2])
        self.kinds[Kind.USER_PROPERTY_DROPPED] += 1

    def _consent(self, edits: Edits, violation: Violation, *rest: str | int) -> None:
        """GA4 replaces a consent that it cannot read by an older one: so it is a refusal."""
        said = edits.at(("consent",))
        if not rest:
            denied = dict.fromkeys(sorted(fields.CONSENT_KEYS), "DENIED")
            self._put(edits, ("consent",), denied, Kind.CONSENT_DENIED)
        elif violation.rule is Rule.UNKNOWN_KEY:
            # It may be one of the two, misspelt.
            unsaid = [key for key in sorted(fields.CONSENT_KEYS) if said.get(key) is None]
            for key in unsaid:
                self._put(edits, ("consent", key), "DENIED", Kind.CONSENT_DENIED)
            self._drop(edits, violation, Kind.KEY_DROPPED)
        else:
            value = edits.at(violation.place)
            word = value.upper() if isinstance(value, str) else ""
            known = word in fields.CONSENT_STATES
            kind = Kind.CONVERTED if known else Kind.CONSENT_DENIED
            self._put(edits, violation.place, word if known else "DENIED", kind)

    def _ads(self, edits: Edits, violation: Violation) -> None:
        value = edits.at(violation.place)
        truth = TRUTHS.get(value.lower()) if isinstance(value, str) else None
        kind = Kind.CONSENT_DENIED if truth is None else Kind.CONVERTED
        self._put(edits, violation.place, truth is not False, kind)

    # -- all of them --------------------------------------------------------------------------

    def _put(self, edits: Edits, place: Place, value: Any, kind: Kind) -> None:
        edits.put(place, value)
        self.kinds[kind] += 1

    def _drop(self, edits: Edits, violation: Violation, kind: Kind) -> None:
        edits.drop(violation.place)
        self.kinds[kind] += 1
        self._remember(violation)

    def _remember(self, violation: Violation) -> None:
        match violation.place:
            case ("events", 0, "params", "items", int(), str(name)) if name not in ITEM_NAMED_BY:
                return
            case ("events", 0, "params", "items", int(), *_):
                self._causes.setdefault(ITEMS, violation)
            case place:
                self._causes.setdefault(place, violation)
