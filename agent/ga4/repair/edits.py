"""Changes to a body, on copies of what changes: the parts of an event are shared and frozen."""

from collections.abc import Mapping
from typing import Any

from agent.ga4.violation import Place


class Edits:
    """One round of changes to ``body``. Places are those of the body as it was before them."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = dict(body)
        self._copies: dict[Place, Any] = {(): self.body}
        self._dropped: set[Place] = set()
        self.made = False

    def at(self, place: Place) -> Any:
        """What stands there now; None if nothing does."""
        found: Any = self.body
        for step in place:
            found = found.get(step) if isinstance(found, Mapping) else found[step]
        return found

    def dropped(self, place: Place) -> bool:
        """Whether it, or what it stands in, was taken out in this round."""
        return any(place[:depth] in self._dropped for depth in range(1, len(place) + 1))

    def put(self, place: Place, value: Any) -> None:
        """Set a value; what it stands in is there."""
        self._copy(place[:-1])[place[-1]] = value
        self.made = True

    def drop(self, place: Place) -> None:
        """Take out an entry or an element; the elements behind it keep their indexes so far."""
        self._dropped.add(place)
        container = self._copy(place[:-1])
        if isinstance(container, dict):
            container.pop(place[-1], None)
        self.made = True

    def finish(self) -> dict[str, Any]:
        """The changed body. No more changes after this."""
        for place, container in self._copies.items():
            if isinstance(container, list):
                container[:] = [
                    element
                    for index, element in enumerate(container)
                    if (*place, index) not in self._dropped
                ]
        return self.body

    def _copy(self, place: Place) -> Any:
        if place not in self._copies:
            shared = self.at(place)
            copy = dict(shared) if isinstance(shared, Mapping) else list(shared)
            self._copy(place[:-1])[place[-1]] = copy
            self._copies[place] = copy
        return self._copies[place]
