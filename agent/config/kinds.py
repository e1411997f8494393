"""Kinds of values that several tables take."""

from collections.abc import Mapping
from typing import Annotated, Final

from agent.config import readers

SCALAR: Final = "a text, true or false, or a finite number of 64 bits at most"
TABLE: Final = "a table of names and values"

Scalar = str | int | float | bool
Scalars = Annotated[
    Mapping[str, Annotated[Scalar, readers.Reader(SCALAR, readers.scalar)]],
    readers.table(expected=TABLE),
]

Mapped = Scalar | Mapping[str, Scalar] | tuple[Mapping[str, Scalar], ...]
MappedParams = Annotated[
    Mapping[
        str, Annotated[Mapped, readers.Reader(SCALAR, readers.nested, write=readers.as_written)]
    ],
    readers.table(expected=TABLE),
]
"""Params of which some may be tables; which these are, and of what, are rules."""
