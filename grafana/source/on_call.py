"""The dashboard that an alert leads to: what burns, since when, what the customer feels, and where to look next.

Read from above. Everything is asked of Prometheus, so it answers also where ClickHouse does not.
"""

from typing import Any

from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

from grafana.source import annotations
from grafana.source.boards import PROMETHEUS_VARIABLE, RUNBOOKS, Section, board, runbook_names
from grafana.source.on_call_money import MONEY
from grafana.source.on_call_parts import WHICH
from grafana.source.panels import (
    ANSWERS,
    GREEN,
    ONE_IS_GOOD,
    ORANGE,
    PER_SECOND,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    lines,
    stat,
    table,
    text,
    wide,
)
from grafana.source.queries import now, now_as_table, over_time

UID = "msgmeter-on-call"

_ALLOWED = 0.005
"""Of all minutes may be stale."""


def _burn(window: str) -> str:
    """How many times faster than allowed the error budget goes: what the alerts look at."""
    return f"msgmeter:figures_stale:ratio_{window} / {_ALLOWED}"


_BUDGET = (
    # As in the recording rules: a sample stands for 15 s, and time without one counts as fresh.
    f"100 * (1 - sum_over_time(msgmeter:figures_stale:bool[30d]) * 15 / (30 * 86400) / {_ALLOWED})"
)
_BURN_RATES = (
    ("5m", "5 minutes", "1: the budget lasts exactly 30 days. Together with the hour, 14.4 pages."),
    ("1h", "1 hour", "14.4 uses 2 % of the budget in an hour, and pages."),
    ("6h", "6 hours", "6 uses 5 % of the budget in six hours, and pages."),
    ("3d", "3 days", "1 uses 10 % of the budget in three days: a ticket."),
)
_BURN_STEPS = ((None, GREEN), (1, YELLOW), (6, ORANGE), (14.4, RED))

_ALERT_COLUMNS = ("alertname", "severity", "alertstate", "job", "instance", "runbook")

_BURNING = Section(
    "What is burning",
    (
        table(
            "Alerts",
            "What fires or is about to. The last column leads to the runbook: what it means, what the customer feels,"
            " how to look, how to mend it.",
            [
                now_as_table(
                    """
sort_desc(max by (alertname, severity, alertstate, job, instance, runbook) (
    label_replace(ALERTS{alertname=~"Msgmeter.*", alertname!="MsgmeterWatchdog"}, "runbook", "$1", "alertname", "(.*)")
))
"""
                )
            ],
            unit="string",
            width=16,
            height=9,
            transformations=[
                DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": {"Time": True, "Value": True},
                        "indexByName": {name: at for at, name in enumerate(_ALERT_COLUMNS)},
                    },
                )
            ],
            columns={
                "alertname": wide(240, displayName="alert"),
                "alertstate": wide(70, displayName="state"),
                "severity": wide(75),
                "job": wide(140),
                "instance": wide(130),
                "runbook": {
                    # A heading's anchor is its text in small letters, which no query and no link can make.
                    "mappings": [
                        {
                            "type": "value",
                            "options": {name: {"text": name.lower()} for name in runbook_names()},
                        }
                    ],
                    "links": [
                        {"title": "Runbook", "url": f"{RUNBOOKS}#${{__value.text}}", "targetBlank": True}
                    ],
                },
            },
        ),
        stat(
            "Alerting works",
            "The Watchdog fires always. Where it does not, Prometheus evaluates no rules, and silence means nothing.",
            [now('max(ALERTS{alertname="MsgmeterWatchdog", alertstate="firing"}) or vector(0)')],
            steps=ONE_IS_GOOD,
            mapped=ANSWERS,
            width=4,
        ),
        stat(
            "Critical alerts",
            "That fire now and page somebody.",
            [
                now(
                    'count(ALERTS{alertname=~"Msgmeter.*", alertstate="firing", severity="critical"}) or vector(0)'
                )
            ],
            steps=ZERO_IS_GOOD,
            width=4,
        ),
        text(
            "Where to look next",
            "The other dashboards, the runbooks and the commands that help most.",
            f"[Runbooks]({RUNBOOKS}) · [Pipeline](/d/msgmeter-pipeline) · [Fleet and revenue](/d/msgmeter-fleet) ·"
            " [Tenant usage](/d/msgmeter-tenant-usage)\n\n"
            "`msgmeter doctor` checks Kafka, ClickHouse, clocks and disk · `msgmeter refusals` says who sends what is"
            " refused · `msgmeter reconcile` says whether all agrees",
            width=8,
            height=5,
        ),
    ),
)

_FRESHNESS = Section(
    "Freshness: at 99.5 % of minutes, figures are at most 60 s behind",
    (
        stat(
            "Behind now",
            "Age of the oldest record that is not committed, by the scheduler.",
            [now("msgmeter:group_lag_seconds:max")],
            unit="s",
            steps=((None, GREEN), (30, YELLOW), (60, RED)),
            nothing="unknown",
        ),
        stat(
            "Error budget left",
            "Of 30 days: 216 minutes may be stale. Minutes in which the scheduler could not tell count as stale.",
            [now(_BUDGET)],
            unit="percent",
            steps=((None, RED), (0, ORANGE), (50, GREEN)),
        ),
        *(
            stat(f"Burn rate, {words}", meaning, [now(_burn(window))], steps=_BURN_STEPS)
            for window, words, meaning in _BURN_RATES
        ),
        lines(
            "Lag",
            "Of the group, by the scheduler, and of each worker, by itself. The line is the objective.",
            [
                over_time("max(msgmeter_group_lag_seconds)", "group"),
                over_time("max by (instance) (msgmeter_consumer_lag_seconds)", "{{instance}}"),
            ],
            unit="s",
            steps=((None, "transparent"), (60, RED)),
        ),
        lines(
            "Flow",
            "Records read, charged and refused per second: does anything come in, and does it come out.",
            [
                over_time("sum(rate(msgmeter_messages_received_total[$__rate_interval]))", "received"),
                over_time("sum(rate(msgmeter_messages_accepted_total[$__rate_interval]))", "accepted"),
                over_time("sum(rate(msgmeter_messages_refused_total[$__rate_interval]))", "refused"),
            ],
            unit=PER_SECOND,
            colors={"refused": RED},
        ),
    ),
)


def on_call() -> Any:
    """The dashboard."""
    return board(
        UID,
        "On call",
        "What is burning: alerts with their runbooks, the error budget of freshness, and which part it is.",
        (_BURNING, _FRESHNESS, WHICH, MONEY),
        variables=(PROMETHEUS_VARIABLE,),
        annotations=(annotations.FIRING,),
        starts="now-3h",
        refresh="10s",
    )
