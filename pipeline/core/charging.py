"""What becomes of one message that is charged, and of its refund: one charge from content to fact.

    count      segments of the body
    locate     country of the counterparty
    rate       micro-credits by tariff
    fold       windows of usage; burn the account; alerts
    emit       the fact, one row

Takes an admitted record, its account and the plan in force, and what was learnt before (`Draft`); gives facts,
entries and alerts into the `Outcomes` at hand. Never decides whether a record charges or refunds: `process` does.

Invariants
- A window, an account and the facts get the same amounts: of a charge, and with the other sign of its refund.
- A window that has applied the record's offset takes nothing more of it; the account and the facts, which come
  after it, still do.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from pipeline.core.accounts import LiveAccount
from pipeline.core.admission import Admitted
from pipeline.core.bounds import CHEAP_MICROS, usage_room
from pipeline.core.contacts import hashed
from pipeline.core.identity_deltas import Draft
from pipeline.core.numbering import locate
from pipeline.core.outcomes import FACT_COLUMNS, Fact, Outcomes
from pipeline.core.rating import quantity
from pipeline.core.records import Message
from pipeline.core.refunds import RecentFacts, refund_fact
from pipeline.core.refusals import Refusal
from pipeline.core.rules import HOUR_MILLISECONDS, Rules
from pipeline.core.segments import MAX_SEGMENTS, measure, measure_as
from pipeline.core.state import PartitionState
from pipeline.core.terms import Terms
from pipeline.core.usage import OTHER_CATEGORY, Dimensions, Split, Window, late_entries
from pipeline.core.windows import WINDOW_MILLISECONDS, local_day, window_start

LATE_MILLISECONDS = HOUR_MILLISECONDS
"""A message received longer after it occurred is counted as late, for a metric only."""
LATE_ACTIONS = ("own_window", "recomputed", "next_period")
"""What becomes of a late message: it is counted in its window, in one that is let go, or in the open period.

Counted as `late_<action>`, each message once: where its period is closed, that is told, whatever its window is.
"""
UNRATED_REASONS = ("country_unknown", "fallback_zone")
"""Why a kind that is priced by country has the price for any: counted as `unrated_<reason>`."""


class Usage(NamedTuple):
    """What one charge or refund adds to what was used; of a refund the sums and parts are negative."""

    kind: str
    """That of its entries where the window's do not hold it: late_usage or refund."""
    dimensions: Dimensions
    sums: tuple[int, int, int, int]
    """Messages, segments, quantity, micro-credits."""
    split: Split
    lapsed: Mapping[str, int]
    """By grant: the part of the split that an expiry was posted for."""
    period_start: int


class Charging:
    """Charges and refunds of one partition."""

    def __init__(self, partition: int, rules: Rules, state: PartitionState) -> None:
        self.recent = RecentFacts()
        self._partition = partition
        self._state = state
        self._hash_counterparty = blake2b(digest_size=8, key=rules.counterparty_key[:64]).copy
        # A record adds to a window's value until it is this old by the account's clock; then facts are summed.
        self._window_held_milliseconds = rules.window_milliseconds + WINDOW_MILLISECONDS
        self.begin(Outcomes())

    def begin(self, outcomes: Outcomes) -> None:
        """Gives into these outcomes from here on."""
        self._outcomes = outcomes
        self.recent.begin(outcomes.facts)

    def charge(self, each: Admitted, live: LiveAccount, terms: Terms, draft: Draft | None) -> Refusal | None:
        """Counts, locates, rates, folds, burns and emits one message; or says why it is refused."""
        message: Message = each.content
        outcomes = self._outcomes
        offset, _, received_at, _, _, _, identity, occurred_at, fingerprint = each
        kind, direction = message.kind, message.direction
        if draft is None:
            encoding, segments = self.content(message, terms) if kind == "sms" else ("", 0)
            if segments > MAX_SEGMENTS:
                return Refusal.TOO_MANY_SEGMENTS
            status: str = message.status
            category, listed, campaign = message.category, message.list, message.campaign
            member, inbox = message.member, message.inbox
            given_country, recipients = message.country, message.recipients
        else:
            encoding, segments, category = draft.encoding, draft.segments, draft.category
            status, listed, campaign = draft.status, draft.list, draft.campaign
            member, inbox = draft.member, draft.inbox
            given_country, recipients = draft.country, draft.recipients
        # An email address belongs to no country; a domain says nothing about who pays.
        country = given_country or ""
        if kind != "email" and not country:
            country = locate(direction, message.to, message.from_, None)[0]
        rate = terms.plan.tariff.rate(kind, direction, country, category, occurred_at)
        units = quantity(rate.per, segments, recipients)
        amount = units * rate.micros
        if amount > CHEAP_MICROS and amount > usage_room(live.account):
            return Refusal.AMOUNT_INVALID
        if rate.is_fallback:
            outcomes.counts["unrated_fallback_zone" if country else "unrated_country_unknown"] += 1
        start = occurred_at - occurred_at % WINDOW_MILLISECONDS
        window = live.windows.get(start) or self._state.window(each.key, live, start)
        if window.is_full and (kind, direction, country, category) not in window.cells:
            category = OTHER_CATEGORY
        grant_id, grant_micros, further, lapsed, period_start = live.charge(
            amount, occurred_at, offset, outcomes, listed, campaign
        )
        if kind in terms.plan.quotas:
            live.count_units(kind, units, period_start)
        split = (grant_id, grant_micros, further)
        dimensions = (kind, direction, country, category)
        is_held = start > live.account.clock_at - self._window_held_milliseconds
        is_counted = offset <= window.applied_offset
        if is_held and period_start <= occurred_at and not is_counted:
            window.add(offset, dimensions, segments, units, amount)
            window.add_burned(split, lapsed)
            live.changed_windows[start] = window
        else:
            usage = Usage("late_usage", dimensions, (1, segments, units, amount), split, lapsed, period_start)
            self._book(each, live, usage, is_counted=is_counted)
        if received_at - occurred_at > LATE_MILLISECONDS:
            action = "own_window" if is_held else "recomputed"
            outcomes.counts[f"late_{action if period_start <= occurred_at else 'next_period'}"] += 1
        counterparty = hashed(
            self._hash_counterparty(), message.to if direction == "outbound" else message.from_
        )
        outcomes.facts.append((
            live.tenant, identity, message.id, message.source, kind, direction, status, country, category,
            listed, member, inbox, campaign, encoding, occurred_at, received_at,
            local_day(occurred_at, terms.plan.zone), period_start, 1, segments, units, rate.micros, amount,
            rate.version, counterparty, grant_id, grant_micros, further, fingerprint, self._partition, offset,
        ))  # fmt: skip
        return None

    def refund(
        self, each: Admitted, live: LiveAccount, terms: Terms, charge: Fact, *, is_counted: bool
    ) -> None:
        """Takes back a charge, whose status is that of the failure; the grants it burned get it back.

        `is_counted` says that the window had applied the record before any of it was folded.
        """
        outcomes, offset, occurred_at = self._outcomes, each.offset, each.occurred_at
        charged = dict(zip(FACT_COLUMNS, charge, strict=True))
        kind = charged["kind"]
        burned = [(charged["grant_id"], charged["grant_micros"]), *charged["further_grants"].items()]
        given_lapsed, period_start = live.refund(
            [(grant_id, micros) for grant_id, micros in burned if micros],
            occurred_at,
            charged["list"],
            offset,
            outcomes,
        )
        fact = refund_fact(charge, each.received_at, period_start, self._partition, offset)
        refunded = dict(zip(FACT_COLUMNS, fact, strict=True))
        if kind in terms.plan.quotas and period_start == charged["period_start"]:
            # A quota includes units of one period: those of a closed one were used in it.
            live.count_units(kind, refunded["quantity"], period_start)
        usage = Usage(
            "refund",
            (kind, charged["direction"], charged["country"], charged["category"]),
            (0, 0, refunded["quantity"], refunded["credits_micros"]),
            (refunded["grant_id"], refunded["grant_micros"], refunded["further_grants"]),
            {grant_id: -micros for grant_id, micros in given_lapsed.items()},
            period_start,
        )
        self._book(each, live, usage, is_counted=is_counted)
        outcomes.facts.append(fact)
        outcomes.counts["refunds"] += 1

    def has_counted(self, each: Admitted, live: LiveAccount) -> bool:
        """Whether the record's window has applied it already: an account behind its windows replays."""
        return self._window(each, live).applied_offset >= each.offset

    def content(self, message: Message, terms: Terms) -> tuple[str, int]:
        """The coding and the segments: the gateway's count where it gives one, else that of the body."""
        body = message.body
        if body is None:
            return message.encoding or "", message.segments or 0
        how = terms.plan.profile_by_source.get(message.source, terms.plan.profile)
        counted = measure_as(message.encoding, body, how) if message.encoding else measure(body, how)
        if message.segments is None:
            return counted
        if message.segments != counted[1]:
            self._outcomes.counts["segments_differ"] += 1
        return counted[0], message.segments

    def _window(self, each: Admitted, live: LiveAccount) -> Window:
        start = window_start(each.occurred_at)
        return live.windows.get(start) or self._state.window(each.key, live, start)

    def _book(self, each: Admitted, live: LiveAccount, usage: Usage, *, is_counted: bool) -> None:
        """Adds to the window, unless it has applied the record, and enters by itself what its entries do not hold.

        Those are the entries of a window that is let go, or of what counts in another period than the window's.
        """
        offset, occurred_at = each.offset, each.occurred_at
        start = window_start(occurred_at)
        is_own_period = usage.period_start <= occurred_at
        is_held = start > live.account.clock_at - self._window_held_milliseconds
        if not is_held:
            self._outcomes.counts["windows_recomputed"] += 1
            self._outcomes.recomputed[live.tenant, start] = offset
        elif not is_counted:
            window = self._window(each, live)
            messages, segments, units, amount = usage.sums
            window.add(offset, usage.dimensions, segments, units, amount, messages)
            if is_own_period:
                window.add_burned(usage.split, usage.lapsed)
            live.changed_windows[start] = window
        if not (is_held and is_own_period):
            # Where it counts in another period than its own, it is in the statement of that one.
            effective_at = occurred_at if is_own_period else live.account.clock_at
            entries = late_entries(
                usage.split,
                usage.lapsed,
                start,
                effective_at,
                each.received_at,
                self._partition,
                offset,
                usage.kind,
            )
            self._outcomes.entries += [(live.tenant, entry) for entry in entries]
