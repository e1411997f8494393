"""The story as plain lines: for files, pipes, and terminals that can do no more."""

from collections.abc import Callable, Iterator

from agent.demo.balance import Balance
from agent.demo.scene import Scene, Sentence


class Lines:
    """Says what the scene tells, each sentence once."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = 0
        self._balanced = False

    def show(self, scene: Scene) -> None:
        """Say what is new."""
        for sentence in scene.sentences[self._said :]:
            self._say(sentence.line())
        self._said = len(scene.sentences)
        if scene.balance is not None and not self._balanced:
            self._balanced = True
            for text in _of(scene.balance):
                self._say(Sentence(scene.seconds, text).line())


def _of(balance: Balance) -> Iterator[str]:
    yield balance.arrivals
    yield f"ledger: {balance.equation}"
    if balance.repeats:
        yield balance.repeats
    yield balance.verdict
