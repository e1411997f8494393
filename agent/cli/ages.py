"""How long ago, and how much longer, as people say it."""

UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
FEW = 10  # of a unit: below that a decimal says something


def rounded(seconds: float) -> str:
    """In the largest unit, to two digits: ``0.8 s``, ``42 s``, ``2.5 h``, ``3 d``."""
    unit, length = next((u for u in UNITS if seconds >= u[1]), UNITS[-1])
    number = seconds / length
    text = f"{number:.1f}".removesuffix(".0") if number < FEW else f"{number:.0f}"
    return f"{text} {unit}"


def in_two_units(seconds: float) -> str:
    """In whole units, two at most, rounded down: ``2 d 22 h``, ``5 min``, ``40 s``."""
    rest = int(seconds)
    for number, (unit, length) in enumerate(UNITS):
        if rest >= length:
            smaller = UNITS[number + 1 : number + 2]
            parts = [f"{rest // length} {unit}"]
            parts += [f"{rest % length // n} {u}" for u, n in smaller if rest % length >= n]
            return " ".join(parts)
    return "0 s"
