"""The types of fields that messages and commands share, each with its bounds.

Decoding enforces them; `schemas/` says the same for other languages.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Label = Annotated[str, Meta(max_length=128)]
Address = Annotated[str, Meta(min_length=1, max_length=320)]
"""A phone number, short code, alphanumeric sender or email address, which has at most 320 (RFC 3696)."""
Amount = Annotated[str, Meta(max_length=32)]
"""Credits or money: a decimal string with at most six decimals."""
GrantId = Annotated[str, Meta(min_length=1, max_length=256)]
Currency = Annotated[str, Meta(pattern="^([A-Z]{3})?$", max_length=3)]
Instant = Annotated[datetime, Meta(tz=True)] | int
"""RFC 3339 with an offset, or milliseconds since 1970-01-01T00:00:00Z."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(instant: datetime | int) -> int:
    """The instant as whole milliseconds since 1970-01-01T00:00:00Z, rounded down."""
    return instant if type(instant) is int else (instant - _EPOCH) // _MILLISECOND  # type: ignore[operator]
