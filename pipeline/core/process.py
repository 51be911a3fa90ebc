"""The way of a message through the core: one fold per partition, from records to decided outcomes.

    admit      bytes -> message or command, or a refusal; strays are forwarded   (admission.py)
    identify   the first record of an identity, another status of it, or a duplicate
    charge     count, locate, rate, fold, burn, emit; and take back              (charging.py)

Takes records in log order; gives `Outcomes` to carry out and, at a checkpoint, `StateChanges` to keep. Reads state
through the two functions it was given. Never touches clocks, brokers or databases: what was stored of identities
that are no longer held, and of messages that may be refunded, is asked for by `look_ups` and `refund_look_ups` and
answered by the caller.

Records come in with Kafka's offsets; from admission on, inside and in whatever comes out, an offset is a position
(eras.py), which is the same in era 0.

Invariants
- Outcomes and state are a function of the log, however it is cut into calls.
- A message is charged once, iff a billable status was seen; refunded once, iff it was charged and a status was
  seen that the plan refunds: whatever the order, at the record from which on both is so. The plan is the one in
  force at the message's moment, as it is known when the record comes.
- A record at or below an account's applied offset has no effect; at or below a window's or the identities' it
  has none there. State may therefore be kept value by value, accounts last, and replayed from anywhere before.
- A record that the identities have applied and the account has not does to the account what it did the first time:
  it charges iff the identities say that it charged, and refunds iff they remember the charge it took back.
- Whether a message was refunded is said by the refund's fact alone, recent or stored: what is held of the identity
  does not matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.core.accounts import LiveAccount
from pipeline.core.admission import Admission, Admitted, LogRecord
from pipeline.core.charging import Charging
from pipeline.core.commands import apply_command
from pipeline.core.identity import IdentityIndex
from pipeline.core.identity_deltas import Draft, StoredCharge, agrees
from pipeline.core.instructions import SetPlan, Tick
from pipeline.core.outcomes import Fact, Outcomes, refusal_document
from pipeline.core.partitions import key_hash
from pipeline.core.records import STATUS_BITS, Message
from pipeline.core.refunds import FINAL_FAILURES, Refunds, StoredMessage, with_status
from pipeline.core.refusals import Refusal
from pipeline.core.rules import Rules
from pipeline.core.segments import MAX_SEGMENTS
from pipeline.core.state import AccountChanges, Load, PartitionState
from pipeline.core.terms import Terms


class Stored(NamedTuple):
    """What the stored rows say, by identity; what was never stored is left out."""

    charges: Mapping[bytes, StoredCharge] = {}
    """Answers `look_ups`."""
    messages: Mapping[bytes, StoredMessage] = {}
    """Answers `refund_look_ups`."""


NOTHING_STORED = Stored()


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
        self._state = PartitionState(partition, rules, load_account, load_window, window_keys)
        self._accounts = self._state.accounts
        self._charging = Charging(partition, rules, self._state)
        self._charging.begin(self.outcomes)
        self._refunds = Refunds(rules, self.identities, self._state, self._charging.recent)
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

    def refund_look_ups(self, admitted: Sequence[Admitted]) -> list[tuple[str, bytes]]:
        """The (tenant, identity) pairs that may be refunded and whose charge is not among the recent facts."""
        return self._refunds.look_ups(admitted)

    def fold(self, admitted: Sequence[Admitted], stored: Stored = NOTHING_STORED) -> None:
        """Folds admitted records in log order; `stored` answers their look-ups."""
        for each in admitted:
            if each.identity:
                self._message(each, stored)
            else:
                self._command(each)

    def applied(self, offset: int) -> None:
        """Says that every record up to Kafka's `offset` has been folded, whatever became of it."""
        self.identities.advance(self.rules.era.first_position + offset)

    def take_outcomes(self) -> Outcomes:
        """The outcomes since the last call; they are the caller's from here on, but not to be changed.

        To be called once the facts of the call before have been stored: this one's are remembered until the next.
        """
        outcomes, self.outcomes = self.outcomes, Outcomes()
        self._charging.begin(self.outcomes)
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

    @property
    def windows_held(self) -> int:
        """How many windows are kept since the last checkpoint, taken up or not."""
        return self._state.windows_held

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

    def _message(self, each: Admitted, stored: Stored) -> None:
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

    def _identify(self, each: Admitted, live: LiveAccount, terms: Terms, stored: Stored) -> None:
        """Tells the first record of a message from its further statuses, its repetitions and its replays."""
        identities = self.identities
        slot = identities.find(each.identity)
        if each.offset <= identities.applied_offset:
            self._replay(each, live, terms, slot)
        elif slot >= 0:
            self._further_status(each, live, terms, identities.fingerprint_of(slot), slot, stored)
        else:
            known = stored.charges.get(each.identity) if stored.charges else None
            # A charge further on is our own, stored before a crash: this is its replay.
            if known is None or known.offset >= each.offset:
                self._first_or_pending(each, live, terms)
            else:
                self._further_status(each, live, terms, known.fingerprint, slot, stored)

    def _replay(self, each: Admitted, live: LiveAccount, terms: Terms, slot: int) -> None:
        """Charges and refunds the account, which has not kept it yet, as the record did the first time."""
        identities, offset = self.identities, each.offset
        charge = identities.refunded.get(offset)
        is_counted = charge is not None and self._charging.has_counted(each, live)
        if slot >= 0 and identities.charged_by(slot) == offset:
            self._charging.charge(each, live, terms, identities.charged_drafts.get(offset))
        if charge is not None:
            self._charging.refund(each, live, terms, charge, is_counted=is_counted)

    def _further_status(
        self, each: Admitted, live: LiveAccount, terms: Terms, fingerprint: int, slot: int, stored: Stored
    ) -> None:
        """Takes note of a record of a message that is charged already; refunds it where that is due."""
        if fingerprint != each.fingerprint:
            self._refuse(each, Refusal.IDENTITY_CONFLICT)
            return
        bit = STATUS_BITS[each.content.status]
        is_new = slot >= 0 and self.identities.saw_status(slot, bit)
        self._count("statuses" if is_new else "duplicates")
        if bit & terms.refund_mask:
            self._refund(each, live, terms, stored)

    def _refund(self, each: Admitted, live: LiveAccount, terms: Terms, stored: Stored) -> None:
        """Refunds a charged message that has failed, unless an earlier record did."""
        charge = self._refunds.due(each, stored.messages)
        if isinstance(charge, Refusal):
            self._refuse(each, charge)
        elif charge is not None:
            is_counted = self._charging.has_counted(each, live)
            self._take_back(
                each, live, terms, with_status(charge, each.content.status), is_counted=is_counted
            )

    def _take_back(
        self, each: Admitted, live: LiveAccount, terms: Terms, charge: Fact, *, is_counted: bool
    ) -> None:
        self.identities.refund(each.offset, charge)
        self._charging.refund(each, live, terms, charge, is_counted=is_counted)

    def _first_or_pending(self, each: Admitted, live: LiveAccount, terms: Terms) -> None:
        """Charges an identity that was not charged yet, or keeps what this record says of it."""
        message: Message = each.content
        identities = self.identities
        bit = STATUS_BITS[message.status]
        draft = identities.draft(each.identity, each.appended_at) if identities.pending else None
        if draft is None:
            if bit & terms.billable_mask and not self._lacks_content(message):
                self._charge(each, live, terms, bit, None)
                return
            draft = Draft(
                each.appended_at,
                each.offset,
                each.fingerprint,
                tenant_hash=key_hash(each.key),
                partition=self.partition,
            )
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
        self._charge(each, live, terms, draft.statuses, draft)

    def _charge(
        self, each: Admitted, live: LiveAccount, terms: Terms, statuses: int, draft: Draft | None
    ) -> None:
        """Charges a message by the first record that can; refunds it at once where it has failed already."""
        failed = statuses & terms.refund_mask
        is_counted = bool(failed) and self._charging.has_counted(each, live)
        refusal = self._charging.charge(each, live, terms, draft)
        if refusal is not None:
            self._refuse(each, refusal)
            return
        self.identities.charge(
            each.identity, each.offset, statuses, each.fingerprint, each.appended_at, each.occurred_at, draft
        )
        if failed:
            said = (each.content.status, *FINAL_FAILURES)
            status = next(status for status in said if STATUS_BITS[status] & failed)
            charge = with_status(self.outcomes.facts[-1], status)
            self._take_back(each, live, terms, charge, is_counted=is_counted)

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
            encoding, segments = self._charging.content(message, terms)
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
            tenant_hash=draft.tenant_hash,
            partition=draft.partition,
        )

    # Small steps.

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
                each.content.source,
                each.content.id,
                each.received_at,
            )
        )

    def _give_up(self, drafts: Iterable[Draft], now: int) -> None:
        """Refuses sent messages that could not be counted, under the position of their first record."""
        self.outcomes.refusals += [
            refusal_document(
                self.partition if draft.partition < 0 else draft.partition,
                draft.first_offset,
                Refusal.CONTENT_MISSING,
                b"",
                None,
                None,
                None,
                now,
            )
            for draft in drafts
            if draft.status
        ]

    def _count(self, what: str) -> None:
        self.outcomes.counts[what] += 1
