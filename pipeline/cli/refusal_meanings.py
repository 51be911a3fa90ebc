"""What each reason of a refusal means, as one sentence for a person.

The README's table holds the same sentences; a test compares them.
"""

from pipeline.core.refusals import Refusal

MEANINGS = {
    Refusal.OVERSIZE: "The value is larger than 1 MiB.",
    Refusal.KEY_MISSING: ("The record has no key, or an empty one; the key must be the tenant."),
    Refusal.NOT_UTF8: "The value, or a string in it, is not UTF-8.",
    Refusal.NOT_JSON: "The value is not one JSON object.",
    Refusal.TOO_DEEP: "Objects or lists are nested deeper than the decoder follows.",
    Refusal.UNPAIRED_SURROGATE: ("A string holds half of a surrogate pair, which no text can hold."),
    Refusal.NUL_CHARACTER: "A string holds U+0000.",
    Refusal.FIELD_MISSING: "A required field is not there.",
    Refusal.FIELD_INVALID: ("A field has the wrong type, is out of its range, or is not one of its words."),
    Refusal.KEY_MISMATCH: "The key is not the tenant named in the value.",
    Refusal.DATE_TOO_EARLY: "An instant lies before 2000-01-01T00:00:00Z.",
    Refusal.DATE_IN_FUTURE: ("An instant lies more than one day after the broker received the record."),
    Refusal.STRAY: ("The record was forwarded once already and is still not in its tenant's partition."),
    Refusal.SIGNATURE_MISSING: "A command, or a forwarded record, carries no signature.",
    Refusal.SIGNATURE_WRONG: "The signature does not fit the key and the value.",
    Refusal.COMMAND_CONFLICT: (
        "The command's id was used before with another content, of which `effective_at` is a part."
    ),
    Refusal.PLAN_INVALID: (
        "The plan is faulty, names a rate card that does not exist, or is one too many of those yet to come."
    ),
    Refusal.AMOUNT_INVALID: (
        "An amount is no decimal number of the right sign and precision, or makes a sum of the account too large."
    ),
    Refusal.EXPIRY_INVALID: (
        "A grant or a reservation would end before it starts, has ended already, or ends in 2100 or later."
    ),
    Refusal.TENANT_UNKNOWN: "The tenant has no plan, and there is no default plan: set a plan first.",
    Refusal.GRANT_UNKNOWN: "The account holds no grant of this id that a command gave.",
    Refusal.GRANT_BURNED: "Part of the grant was burned already, or it has ended.",
    Refusal.CREDITS_INSUFFICIENT: "That is more than is available, or than is left to assign.",
    Refusal.RESERVATION_UNKNOWN: (
        "The account holds no reservation of this id: it was used up, released or has ended."
    ),
    Refusal.RESERVATION_EXCEEDED: "That is more than the reservation still holds.",
    Refusal.RECHARGE_UNKNOWN: "No recharge of this id waits for an answer.",
    Refusal.ACCOUNT_FULL: "The account holds 1 000 grants, lists or reservations already, the most it may.",
    Refusal.PLAN_MISSING: "The tenant has no plan in force and there is no default plan.",
    Refusal.TOO_MANY_SEGMENTS: (
        "The body needs more than 255 segments, which no concatenated message can have."
    ),
    Refusal.IDENTITY_CONFLICT: ("A record with the same tenant, source and id said something else before."),
    Refusal.CONTENT_MISSING: (
        "A billable status came, but no record with a body or a segment count within the time an outcome is kept."
    ),
    Refusal.UNSTORABLE: "ClickHouse takes the rows around this one, but not this one.",
}


def explained(reason: str) -> str:
    """The reason with its meaning; a reason of a newer worker, which we do not know, as it is."""
    known = MEANINGS.get(Refusal(reason)) if reason in list(Refusal) else None
    return f"{reason}: {known}" if known else reason
