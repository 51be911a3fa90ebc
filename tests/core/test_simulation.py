"""A whole log at once: totals that can be checked by hand, and nothing that depends on how it is cut."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.amounts import parse_credits
from pipeline.core.refusals import Refusal
from pipeline.core.simulation import Report, simulate
from pipeline.logfile import LogRecord, sign_plain
from pipeline.traffic import Traffic, TrafficGenerator
from tests.builders import COMMAND_KEY, DAY, HOUR, MINUTE, NOON, Log, instant, plan, rules
from tests.properties.random_logs import START, make_log, seeds, small_rules


def simulated(log: Log, **options: Any) -> Report:
    return simulate(as_file(log), rules(partitions=4), **options)


def as_file(log: Log) -> list[LogRecord]:
    """Records as a file gives them."""
    return [
        LogRecord(record.key, record.value or b"", list(record.headers), record.timestamp)
        for record in log.records
    ]


def log_of_two_days() -> Log:
    """Noon of the 10th to the 11th: ten credits used of 12, in New York's days, and two refusals."""
    log = Log()
    log.set_plan(plan("12", zone="America/New_York"), effective_at=NOON - 40 * DAY)
    log.message("m1", body="x" * 161)  # 2 segments
    log.message("m1", body="x" * 161)  # the same again
    log.message("m2", kind="mms", body=None)  # 3 credits
    log.now = instant("2026-02-11T04:59:59")
    log.message("m3", category="campaign")  # 1, on the 10th in New York
    log.now = instant("2026-02-11T05:00:00")
    log.message("m4", to="+4915112345678", body=None, segments=4)  # 4, on the 11th
    log.message("m4", to="+4915112345679", body=None, segments=4)  # contradicts
    log.message("m5", tenant="bolt")  # without a plan
    log.now += MINUTE
    log.grant("2.5")
    return log


def test_totals_are_those_made_by_hand() -> None:
    document = simulated(log_of_two_days()).document()
    (account,) = document["accounts"]
    period = account.pop("periods")[0]
    assert (account["tenant"], account["balance"], account["uncovered"]) == ("acme", "4.5", "0")
    assert (period["limit"], period["used"], period["levels_fired"]) == ("14.5", "10", [])
    shown = ("local_date", "kind", "country", "category", "messages", "segments", "quantity", "credits")
    assert [tuple(day[name] for name in shown) for day in document["usage"]["days"]] == [
        ("2026-02-10", "mms", "US", "", 1, 0, 1, "3"),
        ("2026-02-10", "sms", "US", "", 1, 2, 2, "2"),
        ("2026-02-10", "sms", "US", "campaign", 1, 1, 1, "1"),
        ("2026-02-11", "sms", "DE", "", 1, 4, 4, "4"),
    ]
    starts = [window["window_start"] for window in document["usage"]["windows"]]
    assert starts == [NOON, NOON, instant("2026-02-11T04:45"), instant("2026-02-11T05:00")]
    assert [alert["level"] for alert in document["alerts"]] == [80]
    assert sorted(refusal["reason"] for refusal in document["refusals"]) == [
        Refusal.IDENTITY_CONFLICT,
        Refusal.PLAN_MISSING,
    ]
    assert [result["balance"] for result in document["results"]] == ["12", "4.5"]
    assert document["counts"]["duplicates"] == 1


def test_entries_of_each_account_sum_to_its_balance() -> None:
    document = simulated(log_of_two_days()).document()
    amounts = [parse_credits(entry["amount"]) for entry in document["entries"] if entry["tenant"] == "acme"]
    assert sum(amounts) == 4_500_000


def test_windows_and_days_sum_to_the_same() -> None:
    usage = simulated(log_of_two_days()).document()["usage"]
    for name in ("messages", "segments", "quantity"):
        assert sum(row[name] for row in usage["windows"]) == sum(row[name] for row in usage["days"])


def test_time_ends_with_the_log_or_where_it_is_told_to() -> None:
    log = log_of_two_days()
    (account,) = simulated(log).document()["accounts"]
    assert [grant["kind"] for grant in account["grants"]] == ["allowance", "purchase"]
    until = instant("2026-03-01T05:00") + 72 * HOUR
    report = simulated(log, until=until)
    (account,) = report.document()["accounts"]
    assert account["balance"] == "14.5"
    assert account["grants"][0]["id"] == f"allowance:{instant('2026-03-01T05:00')}"
    late = [entry for entry in report.document()["entries"] if entry["kind"] == "expiry"]
    assert [(entry["amount"], entry["effective_at"], entry["posted_at"]) for entry in late] == [
        ("-2", instant("2026-03-01T05:00") - 1, instant("2026-03-01T05:00"))
    ]


def test_an_end_before_the_logs_own_is_an_error() -> None:
    log = log_of_two_days()
    with pytest.raises(ValueError, match="goes on until 2026-02-11T05:01:00"):
        simulated(log, until=NOON)
    assert simulated(log, until=log.now)


def test_a_record_without_any_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="received_at"):
        simulate([LogRecord(b"acme", b"{}")], rules())


def test_a_report_is_json() -> None:
    assert orjson.loads(orjson.dumps(simulated(log_of_two_days()).document()))


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 60), st.integers(1, 60))
def test_chunks_and_checkpoints_of_any_size_give_the_same_bytes(
    event_seeds: list[int], chunk: int, checkpoint: int
) -> None:
    log = Log(START)
    log.records = [
        record._replace(timestamp=max(record.timestamp, START)) for record in make_log(event_seeds)
    ]
    given_rules = small_rules(partitions=4)
    until = max(record.timestamp for record in log.records) + 40 * DAY
    whole = simulate(as_file(log), given_rules, until=until, checkpoint_records=10**9)
    cut = simulate(as_file(log), given_rules, until=until, chunk_records=chunk, checkpoint_records=checkpoint)
    one, other = whole.document(), cut.document()
    for metric in ("duplicates", "statuses"):  # What was evicted is known to be a repetition, not of what.
        one["counts"].pop(metric, None)
        other["counts"].pop(metric, None)
    assert orjson.dumps(one) == orjson.dumps(other)


def test_generated_traffic_loses_nothing() -> None:
    """Every record is charged, refused, a status, a repetition, a command or still waited for."""
    generator = TrafficGenerator(Traffic(start_at=NOON, messages=3_000, tenants=20, malformed=0.02))
    records = [sign_plain(record, COMMAND_KEY) for record in generator]
    report = simulate(records, rules(partitions=8))
    counts = report.counts
    told = len(report.facts) - counts["refunds"] + len(report.refusals) + len(report.results)
    assert counts["refunds"], "a refund is a fact more than there are records"
    assert counts["received"] == len(records)
    assert told + counts["statuses"] + counts["duplicates"] <= len(records)
    assert len(report.refusals) == generator.counts["malformed"]
    balances = {tenant: account.balance for tenant, account in report.accounts.items()}
    entries = dict.fromkeys(balances, 0)
    for tenant, entry in report.entries:
        entries[tenant] += entry.amount
    assert entries == balances
