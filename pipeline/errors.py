"""The operating errors: what went wrong around the records, and what the caller does next.

    MsgmeterError                    anything msgmeter raises on purpose
    ├── SettingsError                pipeline.settings: the environment cannot be used
    ├── MigrationError               pipeline.clickhouse.migrate: the database differs from the migrations
    ├── Transient                    it may pass: wait `retry_after_seconds`, then do the same again
    └── Permanent                    doing the same again fails again: change what is sent, or stop
        └── Unstorable               one of the rows is at fault: without it the others can be stored

An adapter maps the errors of its library to `Transient` and `Permanent` once, with the cause chained, so that
nobody else names that library. A record that cannot be billed is no error but a refusal
(pipeline.core.refusals), and a bug is an assertion that ends the process. No text holds a password or a
message's content.
"""


class MsgmeterError(Exception):
    """Anything msgmeter raises on purpose; its text is for the operator."""


class Transient(MsgmeterError):  # noqa: N818 - named for what the caller does, not for what happened
    """A service is away, busy or out of room; the same request, unchanged, may succeed later."""

    def __init__(self, text: str, *, retry_after_seconds: float) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds
        """How long to wait before the next try; above zero."""


class Permanent(MsgmeterError):  # noqa: N818 - named for what the caller does, not for what happened
    """The same request would fail again, because of what it asks or how the service is set up."""


class Unstorable(Permanent):
    """At least one row of a batch cannot be stored whatever is tried; the others can, without it."""
