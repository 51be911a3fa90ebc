"""Whether what is counted is right: what differs, what nobody was told, what was not stored, and what runs full.

A section of the On call dashboard, read from Prometheus.
"""

from grafana.source.boards import Section
from grafana.source.panels import GREEN, ORANGE, PER_SECOND, RED, YELLOW, ZERO_IS_GOOD, lines, stat
from grafana.source.queries import now, over_time

MONEY = Section(
    "Is what is counted right",
    (
        stat(
            "Rows that differ",
            "Found by the last reconciliation: must be 0, else somebody is billed wrongly.",
            [now("sum(msgmeter_reconcile_drift_rows)")],
            steps=ZERO_IS_GOOD,
            nothing="never run",
        ),
        stat(
            "Tenants not alerted",
            "Beyond 95 % without a recorded alert.",
            [now("max(msgmeter_tenants_unalerted)")],
            steps=ZERO_IS_GOOD,
        ),
        stat(
            "Recharges without answer",
            "Payment was asked for, and nobody answered.",
            [now("max(msgmeter_recharges_unanswered)")],
            steps=((None, GREEN), (1, YELLOW)),
        ),
        stat(
            "Rows not stored",
            "Rows that ClickHouse did not take, and records that retention deleted unread, in the time range.",
            [
                now(
                    "round(sum(increase(msgmeter_rows_unstorable_total[$__range]))"
                    " + sum(increase(msgmeter_messages_gone_unread_total[$__range])))"
                )
            ],
            steps=ZERO_IS_GOOD,
        ),
        stat(
            "Least free disk",
            "Where the state is, of the worker that has least, in per cent.",
            [now("100 * min(msgmeter_state_disk_free_bytes / msgmeter_state_disk_size_bytes)")],
            unit="percent",
            steps=((None, RED), (10, ORANGE), (20, GREEN)),
        ),
        stat(
            "Most memory used",
            "Of the worker that is nearest to its limit, in per cent.",
            [
                now(
                    '100 * max(process_resident_memory_bytes{job="msgmeter-worker"} / msgmeter_memory_limit_bytes)'
                )
            ],
            unit="percent",
            steps=((None, GREEN), (80, ORANGE), (90, RED)),
        ),
        lines(
            "Duplicates and further statuses",
            "As a share of what is received: a gateway that repeats itself shows here.",
            [
                over_time(
                    "sum(rate(msgmeter_messages_duplicate_total[$__rate_interval]))"
                    " / (sum(rate(msgmeter_messages_received_total[$__rate_interval])) > 0)",
                    "duplicates",
                ),
                over_time(
                    "sum(rate(msgmeter_messages_status_total[$__rate_interval]))"
                    " / (sum(rate(msgmeter_messages_received_total[$__rate_interval])) > 0)",
                    "further statuses",
                ),
            ],
            unit="percentunit",
            height=6,
        ),
        lines(
            "Unrated, late and different segments",
            "Messages per second that were priced by a fallback, came late, or had other segments by their gateway.",
            [
                over_time("sum(rate(msgmeter_messages_unrated_total[$__rate_interval]))", "unrated"),
                over_time("sum(rate(msgmeter_messages_late_total[$__rate_interval]))", "late"),
                over_time("sum(rate(msgmeter_segments_differ_total[$__rate_interval]))", "segments differ"),
            ],
            unit=PER_SECOND,
            height=6,
        ),
    ),
)
