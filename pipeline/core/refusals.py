"""Why a record cannot be billed: one closed, ordered list.

A refusal is a value, never an exception: the record's position, size and digest go to `messages.refused`
under one of these reasons, the reason is counted, and nothing else is lost. The payload is never repeated:
`messages.raw` still has it, and a retry reads it there by position.

The order is the order of the checks: a record with several faults is refused for the first of them, so the
reason does not depend on how a decoder happens to work.
"""

from enum import StrEnum


class Refusal(StrEnum):
    """A reason; its text is what topics, metrics and `simulate` show."""

    OVERSIZE = "oversize"
    """The value is larger than 1 MiB."""
    KEY_MISSING = "key_missing"
    """The record has no key, or an empty one; the key must be the tenant."""
    NOT_UTF8 = "not_utf8"
    """The value, or a string in it, is not UTF-8."""
    NOT_JSON = "not_json"
    """The value is not one JSON object."""
    TOO_DEEP = "too_deep"
    """Objects or lists are nested deeper than the decoder follows."""
    UNPAIRED_SURROGATE = "unpaired_surrogate"
    """A string holds half of a surrogate pair, which no text can hold."""
    NUL_CHARACTER = "nul_character"
    """A string holds U+0000."""
    FIELD_MISSING = "field_missing"
    """A required field is not there."""
    FIELD_INVALID = "field_invalid"
    """A field has the wrong type, is out of its range, or is not one of its words."""
    KEY_MISMATCH = "key_mismatch"
    """The key is not the tenant named in the value."""
    DATE_TOO_EARLY = "date_too_early"
    """An instant lies before 2000-01-01T00:00:00Z."""
    DATE_IN_FUTURE = "date_in_future"
    """An instant lies more than one day after the broker received the record."""
    STRAY = "stray"
    """The record was forwarded once already and is still not in its tenant's partition."""
    SIGNATURE_MISSING = "signature_missing"
    """A command, or a forwarded record, carries no signature."""
    SIGNATURE_WRONG = "signature_wrong"
    """The signature does not fit the key and the value."""
    COMMAND_CONFLICT = "command_conflict"
    """The command's id was used before with another content."""
    PLAN_INVALID = "plan_invalid"
    """The plan is faulty, names a rate card that does not exist, or is one too many of those yet to come."""
    AMOUNT_INVALID = "amount_invalid"
    """An amount is no decimal number of the right sign and precision, or makes a sum of the account too large."""
    EXPIRY_INVALID = "expiry_invalid"
    """A grant would end before it starts, has ended already, or ends in 2100 or later."""
    TENANT_UNKNOWN = "tenant_unknown"
    """A command for a tenant that has no plan, while there is no default plan: set a plan first."""
    GRANT_UNKNOWN = "grant_unknown"
    """The account holds no grant of this id."""
    GRANT_BURNED = "grant_burned"
    """Part of the grant was burned already, or it has ended."""
    CREDITS_INSUFFICIENT = "credits_insufficient"
    """More credits than are available, or than are left to assign."""
    RESERVATION_UNKNOWN = "reservation_unknown"
    """The account holds no reservation of this id: it was used up, released or has ended."""
    RESERVATION_EXCEEDED = "reservation_exceeded"
    """More than the reservation still holds."""
    RECHARGE_UNKNOWN = "recharge_unknown"
    """No recharge of this id waits for an answer."""
    ACCOUNT_FULL = "account_full"
    """The account holds as many grants, lists or reservations as one account may: 1 000 of each."""
    PLAN_MISSING = "plan_missing"
    """The tenant has no plan in force and there is no default plan. Retryable."""
    TOO_MANY_SEGMENTS = "too_many_segments"
    """The body needs more than 255 segments, which no concatenated message can have."""
    IDENTITY_CONFLICT = "identity_conflict"
    """A record with the same tenant, source and id said something else before."""
    CONTENT_MISSING = "content_missing"
    """A billable status came, but no record with a body or a segment count within the time an outcome is kept."""
    UNSTORABLE = "unstorable"
    """ClickHouse takes the rows around this one, but not this one."""

    @property
    def retryable(self) -> bool:
        """Whether the same record can be accepted later, once something else has changed."""
        return self is Refusal.PLAN_MISSING
