"""Who a tenant's contacts are: known by a keyed hash of their address, never by the address.

A contact's number or mail address is the other party's of a message: `to` of an outbound one, `from` of an inbound.
One person is one contact however the address is written: a leading "+" and the case of letters do not count.
"""

from hashlib import blake2b


def contact_hash(key: bytes, address: str) -> int:
    """The 64-bit keyed hash under which facts and marks know a contact."""
    return hashed(blake2b(digest_size=8, key=key[:64]), address)


def hashed(hasher: blake2b, address: str) -> int:
    """The same with a fresh copy of a keyed hasher: for the hot path."""
    hasher.update(address.lstrip("+").lower().encode())
    return int.from_bytes(hasher.digest(), "little")
