"""Which params name something: half of such a name is the name of something else."""

import re

# Beside every `*_id` also the spellings of other habits (orderId, IDs), and the two whose own
# names do not say it. Too many names here cost a text that could have been cut; too few would
# falsify a key.
_FORM = re.compile(r"(?i:(?:.*_)?ids?)|.*[a-z0-9](?:Id|ID)s?", re.DOTALL)
_OTHERS = frozenset(("coupon", "currency"))


def is_identifier(name: str) -> bool:
    """Whether the value under this name is never cut."""
    return name in _OTHERS or _FORM.fullmatch(name) is not None
