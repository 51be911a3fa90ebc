"""What a refusal repeats of the record it is about: a gateway's name and an identity, and nothing else a record says.

Takes texts that anybody may have written, from fields or headers; gives them back, or none where they do not look like
what they should be. A body, a phone number or a key that stands in the wrong field goes no further so. Messages that
are accepted are not looked at.
"""

import re

MAX_IDENTITY_CHARACTERS = 128
_MAX_GATEWAY_CHARACTERS = 64
_PART = "(?:[A-Za-z]+(?:[0-9]+[A-Za-z]*)?|[0-9]+[A-Za-z]*)"
GATEWAY_PATTERN = f"^(?!(?:[^0-9]*[0-9]){{7}})(?=[A-Za-z]){_PART}(?:[._-]{_PART})*$"
"""A letter first, then parts that `.`, `_` or `-` join. In a part digits stand together, as they do not in keys, and in
all of it are six at most, which is too few for a phone number. `schemas/refusal.v1.json` has the same pattern."""
_GATEWAY = re.compile(GATEWAY_PATTERN)
_NUMBER = re.compile(r"\+[0-9]+")


def gateway_name(text: str | None) -> str | None:
    """The text, where it is one plain word of at most 64 characters, such as "gateway-eu"."""
    if not text or len(text) > _MAX_GATEWAY_CHARACTERS or not _GATEWAY.fullmatch(text):
        return None
    return text


def identity_name(text: str | None) -> str | None:
    """The first 128 characters of a tenant or id; none where they hold spaces or are no characters to print.

    Nor is a number in international form an identity. Digits alone are: many ids and tenants are numbers.
    """
    if not text:
        return None
    text = text[:MAX_IDENTITY_CHARACTERS]
    return text if text.isprintable() and " " not in text and not _NUMBER.fullmatch(text) else None
