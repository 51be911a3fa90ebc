"""The way of a message through the core: one fold per partition, from records to decided outcomes.

    admit      bytes -> message or command, or a refusal; strays are forwarded   (admission.py)
    identify   the first record of an identity, another status of it, or a duplicate
    count      segments of the body
    locate     country of the counterparty
    rate       micro-credits by tariff
    fold       windows of usage; burn the account; alerts
    emit       the fact, one row

Takes records in log order; gives `Outcomes` to carry out and, at a checkpoint, `StateChanges` to keep. Reads state
through the two functions it was given. Never touches clocks, brokers or databases: look-ups of identities that
are no longer held are asked for by `look_ups` and answered by the caller.

Invariants
- Outcomes and state are a function of the log, however it is cut into calls.
- A record at or below an account's applied offset has no effect; at or below a window's or the identities' it
  has none there. State may therefore be kept value by value, accounts last, and replayed from anywhere before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from pipeline.core.accounts import LiveAccount
from pipeline.core.admission import Admission, Admitted, LogRecord
from pipeline.core.commands import apply_command
from pipeline.core.contacts import hashed
from pipeline.core.identity import IdentityIndex
from pipeline.core.identity_deltas import Draft, StoredCharge, agrees
from pipeline.core.instructions import SetPlan, Tick
from pipeline.core.numbering import locate
from pipeline.core.outcomes import Outcomes, refusal_document
from pipeline.core.rating import quantity
from pipeline.core.records import STATUS_BITS, Message
from pipeline.core.refusals import Refusal
from pipeline.core.rules import HOUR_MILLISECONDS, Rules
from pipeline.core.segments import MAX_SEGMENTS, measure, measure_as
from pipeline.core.state import AccountChanges, Load, PartitionState
from pipeline.core.terms import Terms
from pipeline.core.usage import OTHER_CATEGORY, late_entries
from pipeline.core.windows import WINDOW_MILLISECONDS, local_day

LATE_MILLISECONDS = HOUR_MILLISECONDS
"""A message received longer after it occurred is counted as late, for a metric only."""


NOTHING_STORED: Mapping[bytes, StoredCharge] = {}


@dataclass(frozen=True, slots=True)
class StateChanges(AccountChanges):
    """What a checkpoint keeps: values by key (none: forget it), and the windows and accounts behind them."""

    identities: Mapping[bytes, bytes | None]
    applied_offset: int


class PartitionFold:
    """All that is known of the tenants of one partition."""

    def __init__(
        self,
        partition: int,
        rules: Rules,
        load_account: Load = lambda _: None,
        load_window: Load = lambda _: None,
        identity_deltas: Iterable[bytes] = (),
        window_keys: Iterable[bytes] = (),
    ) -> None:
        """`load_account` and `load_window` give kept values by key; deltas and keys are all that are kept."""
        self.partition = partition
        self.rules = rules
        self.outcomes = Outcomes()
        self.clock_at = 0
        self.identities = IdentityIndex(
            hold_milliseconds=rules.identity_milliseconds,
            limit=rules.identity_limit,
            pending_milliseconds=rules.pending_milliseconds,
            pending_limit=rules.pending_limit,
        )
        self.identities.load(identity_deltas)
        self._hash_counterparty = blake2b(digest_size=8, key=rules.counterparty_key[:64]).copy
        self._state = PartitionState(partition, rules, load_account, load_window, window_keys)
        self._accounts = self._state.accounts
        # A record adds to a window's value until it is this old by the account's clock; then facts are summed.
        self._window_held_milliseconds = rules.window_milliseconds + WINDOW_MILLISECONDS
        self._admission = Admission(partition, rules, self._accounts)

    # The steps that the shell calls.

    def admit(self, records: Iterable[LogRecord]) -> list[Admitted]:
        """Decodes and checks records; what is refused or forwarded is among the outcomes."""
        return self._admission.admit(records, self.outcomes)

    def look_ups(self, admitted: Sequence[Admitted]) -> list[tuple[str, bytes]]:
        """The (tenant, identity) pairs that may have been charged before the identities held."""
        horizon_at = self.identities.horizon_at
        return [
            (each.content.tenant, each.identity)
            for each in admitted
            if each.occurred_at <= horizon_at and each.identity and self.identities.find(each.identity) < 0
        ]

    def fold(
        self, admitted: Sequence[Admitted], stored: Mapping[bytes, StoredCharge] = NOTHING_STORED
    ) -> None:
        """Folds admitted records in log order; `stored` answers their `look_ups`."""
        for each in admitted:
            if each.identity:
                self._message(each, stored)
            else:
                self._command(each)

    def applied(self, offset: int) -> None:
        """Says that every record up to `offset` has been folded, whatever became of it."""
        self.identities.advance(offset)

    def take_outcomes(self) -> Outcomes:
        """The outcomes since the last call; they are the caller's from here on."""
        outcomes, self.outcomes = self.outcomes, Outcomes()
        return outcomes

    def checkpoint(self) -> StateChanges:
        """What changed since the last call; also lets go of what need not be held any longer.

        To be called together with `take_outcomes`, once the outcomes of the call before have been carried out:
        state and outcomes then end at the same offset.
        """
        self.identities.evict(self.clock_at)
        kept = self._state.checkpoint(self.clock_at)
        return StateChanges(
            accounts=kept.accounts,
            windows=kept.windows,
            changed_accounts=kept.changed_accounts,
            changed_windows=kept.changed_windows,
            identities={
                self.partition.to_bytes(2, "big") + key: value
                for key, value in self.identities.checkpoint(self.clock_at).items()
            },
            applied_offset=self.identities.folded_offset,
        )

    @property
    def accounts_held(self) -> int:
        """How many accounts are taken up."""
        return len(self._accounts)

    # One record.

    def _command(self, each: Admitted) -> None:
        live = self._state.account(each.key, each.content.tenant)
        if each.offset <= live.account.applied_offset:
            return
        self.clock_at = max(self.clock_at, each.appended_at)
        now = each.appended_at
        if isinstance(each.content, Tick):
            if each.offset > self.identities.applied_offset:
                self._give_up(self.identities.give_up(now), now)
            # A scheduler's clock may be ahead of the broker's; what is due by its tick has to happen all the same.
            now = max(now, each.occurred_at)
        # A tenant that begins with a plan of its own was never under the default one.
        if live.account.periods or not isinstance(each.content, SetPlan):
            live.advance(now, each.offset, self.outcomes)
        live.account.clock_at = max(live.account.clock_at, now)
        apply_command(each.content, each.value, live, self.rules, self.partition, each.offset, self.outcomes)
        live.advance(now, each.offset, self.outcomes)

    def _message(self, each: Admitted, stored: Mapping[bytes, StoredCharge]) -> None:
        offset, appended_at, _, key, _, message, _, occurred_at, _ = each
        live = self._accounts.get(key) or self._state.account(key, message.tenant)
        account = live.account
        if offset <= account.applied_offset:
            return
        if appended_at > self.clock_at:
            self.clock_at = appended_at
        terms = live.terms
        if terms is None or not terms.effective_at <= occurred_at < terms.effective_until:
            terms = live.terms_at(occurred_at)
            if terms is None:
                self._refuse(each, Refusal.PLAN_MISSING)
                return
        if appended_at >= live.due_at:
            live.advance(appended_at, offset, self.outcomes)
        elif appended_at > account.clock_at:
            account.clock_at = appended_at
        # Whatever becomes of the record, the account has seen it: equal applied offsets mean equal content.
        account.applied_offset = offset
        live.is_dirty = True
        self._identify(each, live, terms, stored)

    def _identify(
        self, each: Admitted, live: LiveAccount, terms: Terms, stored: Mapping[bytes, StoredCharge]
    ) -> None:
        """Tells the first record of a message from its further statuses, its repetitions and its replays."""
        identities, offset = self.identities, each.offset
        slot = identities.find(each.identity)
        if slot >= 0:
            if identities.charged_by(slot) == offset:
                # A replay of the record that charged: the account has not kept it yet.
                self._charge(each, live, terms, identities.charged_drafts.get(offset))
            elif offset > identities.applied_offset:
                self._further_status(each, slot)
            return
        if offset <= identities.applied_offset:
            return  # A replay of a record that did not charge.
        if stored and self._was_stored(each, stored):
            return
        self._first_or_pending(each, live, terms)

    def _was_stored(self, each: Admitted, stored: Mapping[bytes, StoredCharge]) -> bool:
        """Whether an earlier record has charged this identity, as the stored rows say."""
        known = stored.get(each.identity)
        # A charge further on is our own, stored before a crash: this is its replay.
        if known is None or known.offset >= each.offset:
            return False
        same = known.fingerprint == each.fingerprint
        self._count("duplicates") if same else self._refuse(each, Refusal.IDENTITY_CONFLICT)
        return True

    def _further_status(self, each: Admitted, slot: int) -> None:
        if self.identities.fingerprint_of(slot) != each.fingerprint:
            self._refuse(each, Refusal.IDENTITY_CONFLICT)
        elif self.identities.saw_status(slot, STATUS_BITS[each.content.status]):
            self._count("statuses")
        else:
            self._count("duplicates")

    def _first_or_pending(self, each: Admitted, live: LiveAccount, terms: Terms) -> None:
        """Charges an identity that was not charged yet, or keeps what this record says of it."""
        message: Message = each.content
        identities = self.identities
        bit = STATUS_BITS[message.status]
        draft = identities.draft(each.identity, each.appended_at) if identities.pending else None
        if draft is None:
            if bit & terms.billable_mask and not self._lacks_content(message):
                if self._charge(each, live, terms, None):
                    identities.charge(
                        each.identity, each.offset, bit, each.fingerprint, each.appended_at, each.occurred_at
                    )
                return
            draft = Draft(each.appended_at, each.offset, each.fingerprint)
        elif not agrees(draft, message, each.fingerprint):
            self._refuse(each, Refusal.IDENTITY_CONFLICT)
            return
        draft = self._learn(draft, each, terms)
        if draft is None:
            return
        self._keep_or_charge(draft, each, live, terms)

    def _keep_or_charge(self, draft: Draft, each: Admitted, live: LiveAccount, terms: Terms) -> None:
        identities = self.identities
        if not draft.status or not (draft.segments or each.content.kind != "sms"):
            self._give_up(identities.keep(each.identity, draft, each.appended_at), each.appended_at)
            self._count("statuses")
            return
        waited = identities.pending.get(each.identity)
        if waited is not None and waited.first_offset != draft.first_offset:
            self._give_up((waited,), each.appended_at)  # It was waited for too long, and this begins anew.
        self._charge(each, live, terms, draft)
        identities.charge(
            each.identity,
            each.offset,
            draft.statuses,
            each.fingerprint,
            each.appended_at,
            each.occurred_at,
            draft,
        )

    def _learn(self, draft: Draft, each: Admitted, terms: Terms) -> Draft | None:
        """The draft with what this record adds; none when the record is refused or says nothing new."""
        message: Message = each.content
        bit = STATUS_BITS[message.status]
        segments, encoding, recipients = draft.segments, draft.encoding, draft.recipients
        # The gateway's own count is preferred to ours, also when it comes later.
        is_told_more = (
            segments != message.segments if message.segments else not segments and message.body is not None
        )
        if message.kind == "sms" and is_told_more:
            encoding, segments = self._segments(message, terms)
            if segments > MAX_SEGMENTS:
                self._refuse(each, Refusal.TOO_MANY_SEGMENTS)
                return None
        elif draft.statuses & bit and message.recipients <= recipients:
            self._count("duplicates")
            return None
        return Draft(
            first_received_at=draft.first_received_at,
            first_offset=draft.first_offset,
            fingerprint=draft.fingerprint,
            statuses=draft.statuses | bit,
            status=draft.status or (message.status if bit & terms.billable_mask else ""),
            segments=segments,
            encoding=encoding,
            country=draft.country or message.country or "",
            category=draft.category or message.category,
            list=draft.list or message.list,
            campaign=draft.campaign or message.campaign,
            member=draft.member or message.member,
            inbox=draft.inbox or message.inbox,
            # Receipts need not repeat the number, and one of a message to many stands for all of them.
            recipients=max(recipients, message.recipients),
        )

    def _charge(self, each: Admitted, live: LiveAccount, terms: Terms, draft: Draft | None) -> bool:
        """Counts, locates, rates, folds, burns and emits one message; false when it was refused."""
        message: Message = each.content
        outcomes = self.outcomes
        offset, _, received_at, key, _, _, identity, occurred_at, fingerprint = each
        kind, direction = message.kind, message.direction
        if draft is None:
            encoding, segments = self._segments(message, terms) if kind == "sms" else ("", 0)
            if segments > MAX_SEGMENTS:
                self._refuse(each, Refusal.TOO_MANY_SEGMENTS)
                return False
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
        if rate.is_fallback:
            self._count("unrated")
        start = occurred_at - occurred_at % WINDOW_MILLISECONDS
        window = live.windows.get(start) or self._state.window(key, live, start)
        if window.is_full and (kind, direction, country, category) not in window.cells:
            category = OTHER_CATEGORY
        units = quantity(rate.per, segments, recipients)
        amount = units * rate.micros
        grant_id, grant_micros, further, lapsed, period_start = live.charge(
            amount, occurred_at, offset, outcomes, listed, campaign
        )
        if kind in terms.plan.quotas:
            live.count_units(kind, units, period_start)
        split = (grant_id, grant_micros, further)
        is_own_period = period_start <= occurred_at
        is_held = start > live.account.clock_at - self._window_held_milliseconds
        if not is_held:
            self._count("windows_recomputed")
            outcomes.recomputed[live.tenant, start] = offset
        elif offset > window.applied_offset:
            window.add(offset, (kind, direction, country, category), segments, units, amount)
            if is_own_period:
                window.add_burned(split, lapsed)
            live.changed_windows[start] = window
        if not (is_held and is_own_period):
            # Where it counts in another period than its own, it is in the statement of that one.
            effective_at = occurred_at if is_own_period else live.account.clock_at
            late = late_entries(split, lapsed, start, effective_at, received_at, self.partition, offset)
            outcomes.entries += [(live.tenant, entry) for entry in late]
        if received_at - occurred_at > LATE_MILLISECONDS:
            self._count("late")
        counterparty = hashed(
            self._hash_counterparty(), message.to if direction == "outbound" else message.from_
        )
        outcomes.facts.append((
            live.tenant, identity, message.id, message.source, kind, direction, status, country, category,
            listed, member, inbox, campaign, encoding, occurred_at, received_at,
            local_day(occurred_at, terms.plan.zone), period_start, 1, segments, units, rate.micros, amount,
            rate.version, counterparty, grant_id, grant_micros, further, fingerprint, self.partition, offset,
        ))  # fmt: skip
        return True

    # Small steps.

    def _segments(self, message: Message, terms: Terms) -> tuple[str, int]:
        """The coding and the segments: the gateway's count where it gives one, else that of the body."""
        body = message.body
        if body is None:
            return message.encoding or "", message.segments or 0
        how = terms.plan.profile_by_source.get(message.source, terms.plan.profile)
        counted = measure_as(message.encoding, body, how) if message.encoding else measure(body, how)
        if message.segments is None:
            return counted
        if message.segments != counted[1]:
            self._count("segments_differ")
        return counted[0], message.segments

    @staticmethod
    def _lacks_content(message: Message) -> bool:
        return message.kind == "sms" and message.body is None and message.segments is None

    def _refuse(self, each: Admitted, reason: Refusal) -> None:
        self.outcomes.refusals.append(
            refusal_document(
                self.partition,
                each.offset,
                reason,
                each.value,
                each.content.tenant,
                each.content.id,
                each.received_at,
            )
        )

    def _give_up(self, drafts: Iterable[Draft], now: int) -> None:
        """Refuses sent messages that could not be counted, under the position of their first record."""
        self.outcomes.refusals += [
            refusal_document(
                self.partition, draft.first_offset, Refusal.CONTENT_MISSING, b"", None, None, now
            )
            for draft in drafts
            if draft.status
        ]

    def _count(self, what: str) -> None:
        self.outcomes.counts[what] += 1
