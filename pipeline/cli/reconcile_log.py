"""The first half of `msgmeter reconcile`: the raw log against what is stored and published.

Takes settings, a client and a scope; folds the log partition by partition, as far as the group has committed it, and
gives tallies. Memory holds one partition at a time, and of our own topics every document once. Reads, never writes,
and joins no group, so that workers do not notice.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.comparing import STORED_PARTS, Days, stored_rows, stored_tenants
from pipeline.core import reconciliation as parts
from pipeline.core.log_comparison import COMPARED, LogComparison, StoredRow, document_row
from pipeline.core.partitions import partition_of
from pipeline.core.reconciliation import Part, Scope, Tally
from pipeline.core.refusals import Refusal
from pipeline.core.replay import Replay
from pipeline.core.rules import Rules
from pipeline.eras import EraError, present_era
from pipeline.reading import RawRecord, TopicReader, committed_offsets, raw_record
from pipeline.rules import make_rules
from pipeline.settings import Settings
from pipeline.topics import (
    ACCOUNT_RECHARGES,
    ACCOUNT_RESULTS,
    MESSAGES_RAW,
    MESSAGES_REFUSED,
    USAGE_ALERTS,
    check_partitions,
)

_CHUNK_RECORDS = 2_000
_PUBLISHED = {
    USAGE_ALERTS: parts.PUBLISHED_ALERTS,
    ACCOUNT_RESULTS: parts.RESULTS,
    ACCOUNT_RECHARGES: parts.RECHARGES,
    MESSAGES_REFUSED: parts.REFUSALS,
}

Told = Callable[[int], None]
"""Is called with the number of records read since the last call."""


@dataclass
class Published:
    """What our own topics say, by partition of the raw log; each document once, however often it was written."""

    rows: dict[tuple[Part, int], list[StoredRow]] = field(default_factory=lambda: defaultdict(list))
    unstorable: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Offsets of records whose facts ClickHouse did not take."""
    gone: list[str] = field(default_factory=list)
    """Topics whose beginning retention has taken."""
    foreign_count: int = 0
    """Records that are none of our documents."""


@dataclass
class LogReport:
    """What came of the log's comparison besides the tallies."""

    record_count: int = 0
    """Records folded up to the committed offsets."""
    not_yet_count: int = 0
    """Records beyond them."""
    ahead_count: int = 0
    """Rows that were stored ahead of the committed offsets, and compared at their own."""
    unstorable_count: int = 0
    gone_partitions: list[int] = field(default_factory=list)
    """Of the log: retention has taken their beginning, so they were not compared."""
    gone_topics: list[str] = field(default_factory=list)
    foreign_count: int = 0

    @property
    def left_out(self) -> frozenset[Part]:
        """The parts of which some rows could not be compared: no difference there proves nothing of them."""
        if self.gone_partitions:
            return frozenset(COMPARED)
        return frozenset(_PUBLISHED[topic] for topic in self.gone_topics)


def compare_log(
    settings: Settings,
    client: Client,
    scope: Scope,
    days: Days,
    tallies: Mapping[Part, Tally],
    told: Told,
) -> LogReport:
    """Compares every partition of the scope; tallies are those of `COMPARED`."""
    if present_era(client, settings).number:
        raise EraError(
            f"{MESSAGES_RAW} has got more partitions since its beginning, over which the log cannot be folded:"
            " compare what is stored, with --stored-only"
        )
    check_partitions(settings)
    rules = make_rules(settings)
    with TopicReader(settings, MESSAGES_RAW) as raw:
        numbers = _partitions(scope, raw.partitions)
        # First of all: whatever is below these offsets has been stored and published by now.
        committed = committed_offsets(settings, raw.partitions)
        published = read_published(settings, scope)
        report = LogReport(gone_topics=published.gone, foreign_count=published.foreign_count)
        tenants: dict[int, list[str]] = defaultdict(list)
        for tenant in stored_tenants(client):
            if scope.has_tenant(tenant):
                tenants[partition_of(tenant.encode(), raw.partitions)].append(tenant)
        for number in numbers:
            low, high = raw.bounds(number)
            if low > 0 or committed[number] > high:
                report.gone_partitions.append(number)
                continue
            unstorable = frozenset(published.unstorable[number])
            one = _Partition(raw, rules, scope, tallies, number, committed[number], unstorable, told)
            for part in STORED_PARTS:
                one.compare(part, stored_rows(client, part, tenants[number], days))
            for topic, part in _PUBLISHED.items():
                if topic not in published.gone:
                    one.compare(part, published.rows[part, number])
            one.close(report)
    return report


class _Partition:
    """One partition of the log under comparison."""

    def __init__(
        self,
        raw: TopicReader,
        rules: Rules,
        scope: Scope,
        tallies: Mapping[Part, Tally],
        number: int,
        committed: int,
        unstorable: frozenset[int],
        told: Told,
    ) -> None:
        """Folds the log up to the committed offset."""
        self._raw = raw
        self._number, self._committed, self._told = number, committed, told
        self._replay = Replay(number, rules)
        self._record_count = self._fold_until(0, [committed - 1] if committed else [], lambda _: None)
        self._comparison = LogComparison(
            self._replay, rules, scope, tallies, committed_offset=committed, unstorable=unstorable
        )

    def compare(self, part: Part, stored: Iterable[StoredRow]) -> None:
        """Compares stored rows of one part, all of this partition and the scope."""
        self._comparison.compare(part, stored)

    def close(self, report: LogReport) -> None:
        """Folds the log on for what is ahead of the committed offset, and compares it."""
        comparison = self._comparison
        # Only now: what was stored or published meanwhile lies before it.
        end_offset = self._raw.bounds(self._number)[1]
        self._fold_until(self._committed, comparison.asked_offsets(end_offset), comparison.answer)
        comparison.close()
        report.record_count += self._record_count
        report.not_yet_count += end_offset - self._committed
        report.ahead_count += comparison.ahead_count
        report.unstorable_count += comparison.unstorable_count

    def _fold_until(self, start: int, stops: Iterable[int], reached: Callable[[int], None]) -> int:
        """Folds the log from an offset on; calls `reached` when each of the ascending stops has been folded."""
        ahead = list(reversed(list(stops)))
        if not ahead:
            return 0
        waiting: list[RawRecord] = []
        count = 0

        def fold() -> None:
            self._replay.fold(waiting)
            self._told(len(waiting))
            waiting.clear()

        for message in self._raw.read({self._number: (start, ahead[0] + 1)}):
            record = raw_record(message)
            # A stop may lie in a hole, and is reached before the next record then.
            while record.offset > ahead[-1]:
                fold()
                reached(ahead.pop())
            waiting.append(record)
            count += 1
            if len(waiting) >= _CHUNK_RECORDS:
                fold()
        fold()
        for stop in reversed(ahead):
            reached(stop)
        return count


def read_published(settings: Settings, scope: Scope) -> Published:
    """Every document of our own topics that belongs to the scope."""
    published = Published()
    for topic, part in _PUBLISHED.items():
        seen = set()
        with TopicReader(settings, topic) as reader:
            spans = {number: reader.bounds(number) for number in range(reader.partitions)}
            if any(low for low, _ in spans.values()):
                published.gone.append(topic)
            for message in reader.read(spans):
                try:
                    document = orjson.loads(message.value() or b"")
                    row, number = document_row(part, document), document["partition"]
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    published.foreign_count += 1
                    continue
                content = (number, row.key, repr(row.values))
                if content in seen or not scope.has_tenant(row.key[0]):
                    continue
                seen.add(content)
                if part is parts.REFUSALS and row.key[-1] == Refusal.UNSTORABLE:
                    published.unstorable[number].add(row.version)
                else:
                    published.rows[part, number].append(row)
    return published


def _partitions(scope: Scope, partitions: int) -> Sequence[int]:
    if not scope.tenants:
        return range(partitions)
    return sorted({partition_of(tenant.encode(), partitions) for tenant in scope.tenants})
