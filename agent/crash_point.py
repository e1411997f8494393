"""Named moments in which a power cut hurts most."""


def reached(name: str) -> None:
    """Say that such a moment has come. Does nothing; tests replace it with a SIGKILL."""
