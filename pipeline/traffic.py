"""Seeded traffic: what gateways would write into `messages.raw`, and the commands that open the accounts.

Takes a `Traffic` description with the instant the log begins at; gives records in the order of the log, each
with the instant it was received. Never looks at a clock, so the same description gives the same bytes.

The log holds, in this order: a plan for each tenant and a purchase for some, then `messages` records: new
messages, later statuses of earlier ones, repeats, late and malformed records and now and then a purchase.
Allowances are cut to the traffic a tenant will get, so that most tenants come past alert levels.

Speed comes from templates: 4 096 message shapes are laid out once, and a record is one of them with its
identity, its instants and a number filled in.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import accumulate, count
from random import Random

import msgspec

from pipeline.core.plans import Plan
from pipeline.data import load_plan, plan_names
from pipeline.logfile import LogRecord
from pipeline.malformed import make_malformed
from pipeline.traffic_templates import TEMPLATES, Step, Template, make_templates

_RECENT = 4_096
_BATCH = 1_024
_HOUR_MILLISECONDS = 3_600_000

_ZONES = (
    "UTC", "America/New_York", "Europe/Istanbul", "Asia/Kolkata", "Asia/Kathmandu", "America/Santo_Domingo",
    "Australia/Lord_Howe", "Europe/Athens", "America/Los_Angeles", "Pacific/Chatham",
)  # fmt: skip
_ALLOWANCE_PERCENT = (60, 95, 110, 120, 150, 1000)
"""Of the expected use: some tenants pass every level, some stop between two, one in six stays below all."""
_CREDITS_PER_RECORD = 0.6
_CREDITS_BY_COUNTRY = 1.0
"""What one record of the mix burns on average, receipts and repeats included: under presets with rates of their own,
and under those that leave the price to the card."""
_PURCHASE_PERCENT = 10
"""Of the expected use: brings a tenant back under an alert level, which it soon reaches again."""
_LONGEST_DELAY_HOURS = 7 * 24
"""Plans are in force this long before the first record, so that late messages find one."""


@dataclass(frozen=True)
class Traffic:
    """What to generate; shares are of the records after the commands."""

    start_at: int
    """When the first record is received, in milliseconds since 1970-01-01T00:00:00Z."""
    seed: int = 1
    messages: int | None = 1_000_000
    """Records after the opening commands; None for no end."""
    tenants: int = 10_000
    records_per_second: int = 300
    """How densely the records lie in the log's own time."""
    duplicates: float = 0.02
    late: float = 0.01
    malformed: float = 0.005
    receipts: float = 0.6
    """Share of outbound messages whose statuses come one by one, as records of their own."""
    late_hours: tuple[int, int] = (1, 40)
    """How long before its arrival a late message occurred: at least and at most; below a week."""
    plans: bool = True
    """Whether the log begins with each tenant's plan."""
    purchases: float = 0.000_02
    """Share of records at which a tenant buys credits; above 0, every seventh buys at the beginning."""

    def __post_init__(self) -> None:
        """Raise ValueError where late messages could come from before the plans."""
        if not 0 <= self.late_hours[0] < self.late_hours[1] < _LONGEST_DELAY_HOURS:
            raise ValueError(f"late_hours must ascend and stay below {_LONGEST_DELAY_HOURS}")


def tenant_name(index: int) -> str:
    """The name of a tenant, counted from 0."""
    return f"tenant-{index + 1:05d}"


class TrafficGenerator:
    """Iterating gives the records; `counts` says how many of what were given so far."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.counts = dict.fromkeys(
            ("plans", "purchases", "messages", "receipts", "duplicates", "late", "malformed"), 0
        )
        self._generator = Random(traffic.seed)  # noqa: S311 - repeatable on purpose
        self._names = [tenant_name(index).encode() for index in range(traffic.tenants)]
        self._weights: list[float] = list(
            accumulate(1 / (rank + 10) ** 0.9 for rank in range(traffic.tenants))
        )
        self._presets = [load_plan(name) for name in plan_names()]
        self._templates = make_templates(self._generator, traffic.receipts)
        self._seconds: dict[int, bytes] = {}

    def __iter__(self) -> Iterator[LogRecord]:
        yield from self._opening()
        yield from self._stream()

    def _opening(self) -> Iterator[LogRecord]:
        """The commands before the first message."""
        traffic = self.traffic
        effective_at = traffic.start_at - _LONGEST_DELAY_HOURS * _HOUR_MILLISECONDS
        for index, name in enumerate(self._names):
            if traffic.plans:
                percent = _ALLOWANCE_PERCENT[index % len(_ALLOWANCE_PERCENT)]
                plan = msgspec.structs.replace(
                    self._preset(index),
                    refunded_statuses=("undelivered", "failed") if index % 3 == 1 else (),
                    zone=_ZONES[index % len(_ZONES)],
                    allowance_credits=str(math.ceil(self._expected_credits(index) * percent / 100)),
                )
                self.counts["plans"] += 1
                yield self._command(name, "set_plan", "plan-1", effective_at, traffic.start_at, plan=plan)
            if traffic.purchases and index % 7 == 3:
                yield self._purchase(index, "purchase-0", traffic.start_at)

    def _preset(self, index: int) -> Plan:
        """A tenant's preset: not in step with the percentages, so that each meets each of them."""
        return self._presets[index // len(_ALLOWANCE_PERCENT) % len(self._presets)]

    def _expected_credits(self, index: int) -> float:
        """What a tenant will use in the whole log; in a log without end, in its first million records."""
        per_record = _CREDITS_PER_RECORD if self._preset(index).rates else _CREDITS_BY_COUNTRY
        share = (self._weights[index] - (self._weights[index - 1] if index else 0)) / self._weights[-1]
        return (self.traffic.messages or 1_000_000) * per_record * share

    def _purchase(self, index: int, key: str, at: int) -> LogRecord:
        self.counts["purchases"] += 1
        amount = str(math.ceil(self._expected_credits(index) * _PURCHASE_PERCENT / 100))
        return self._command(self._names[index], "grant", key, at, at, credits=amount)

    def _command(
        self, name: bytes, type_: str, key: str, effective_at: int, received_at: int, **fields: object
    ) -> LogRecord:
        tenant = name.decode()
        command = {
            "type": type_,
            "id": f"{self.traffic.seed:x}-{self.traffic.start_at:x}-{tenant}-{key}",
            "tenant": tenant,
            "effective_at": effective_at,
            **fields,
        }
        return LogRecord(name, msgspec.json.encode(command), [], received_at, is_plain_command=True)

    def _stream(self) -> Iterator[LogRecord]:  # noqa: PLR0915 - the hot loop: each call saved is 100 ns
        """The records after the commands. One of five things each time; receipts that are due come first."""
        traffic, generator, counts = self.traffic, self._generator, self.counts
        random, bits = generator.random, generator.getrandbits
        templates, instant = self._templates, self._instant
        prefix = b"%x-%x-" % (traffic.seed, traffic.start_at)
        no_headers: list[tuple[str, bytes]] = []
        recent: list[LogRecord] = []
        due: list[tuple[int, int, Step, Template, bytes, bytes, int, bytes]] = []
        bad_until = traffic.malformed
        repeat_until = bad_until + traffic.duplicates
        odd_until = repeat_until + traffic.purchases
        tenants: list[bytes] = []
        for step_number in count() if traffic.messages is None else range(traffic.messages):
            now = traffic.start_at + step_number * 1000 // traffic.records_per_second
            chance = random()
            if chance < odd_until and recent:
                if chance < repeat_until:
                    example = recent[bits(12) % len(recent)]
                    counts["malformed" if chance < bad_until else "duplicates"] += 1
                    if chance < bad_until:
                        _, example = make_malformed(generator, example.key or b"", example.value)
                    yield LogRecord(example.key, example.value, example.headers, now)
                else:
                    (index,) = generator.choices(range(traffic.tenants), cum_weights=self._weights)
                    yield self._purchase(index, f"purchase-{step_number}", now)
                continue
            if due and due[0][0] <= now:
                _, _, step, template, tenant, head, occurred_at, body = heappop(due)
                counts["receipts"] += 1
            else:
                if not tenants:
                    tenants = generator.choices(self._names, cum_weights=self._weights, k=_BATCH)
                tenant = tenants.pop()
                number = bits(32)
                template = templates[number & (TEMPLATES - 1)]
                occurred_at = now - template.lag_milliseconds
                if random() < traffic.late:
                    occurred_at -= generator.randrange(*traffic.late_hours) * _HOUR_MILLISECONDS + bits(21)
                    counts["late"] += 1
                head = template.head % (
                    prefix + b"%x" % step_number,
                    tenant,
                    (number >> 12) % template.numbers,
                    instant(occurred_at, template.offset_minutes),
                )
                body = template.body % (number % 1_000_000) if template.has_token else template.body
                step, *later = template.steps
                for after in later:
                    sent_at = now + after.sent_after_milliseconds
                    entry = (
                        sent_at,
                        len(due) + step_number,
                        after,
                        template,
                        tenant,
                        head,
                        occurred_at,
                        body,
                    )
                    heappush(due, entry)
                counts["messages"] += 1
            status_at = instant(occurred_at + step.status_after_milliseconds, template.offset_minutes)
            value = head + step.status + status_at + (body if step.with_body else b"}")
            record = LogRecord(tenant, value, no_headers, now)
            if len(recent) < _RECENT:
                recent.append(record)
            else:
                recent[step_number % _RECENT] = record
            yield record

    def _instant(self, at: int, offset_minutes: int | None) -> bytes:
        """The instant as JSON: milliseconds, or RFC 3339 with that offset from UTC."""
        if offset_minutes is None:
            return b"%d" % at
        seconds, milliseconds = divmod(at + offset_minutes * 60_000, 1000)
        text = self._seconds.get(seconds)
        if text is None:
            if len(self._seconds) > 10_000:
                self._seconds.clear()
            text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            self._seconds[seconds] = text
        if offset_minutes == 0:
            return b'"%b.%03dZ"' % (text, milliseconds)
        return b'"%b.%03d+%02d:%02d"' % (text, milliseconds, *divmod(offset_minutes, 60))
