"""What is marked on panels over time: alerts of tenants, alerts that fire, and changes of prices and plans.

A rate card's version is named after the instant it comes into force ("standard@2026-01-01"), so its change is read
from the names of the versions that rated messages in the time range; a version nobody was rated by yet has no mark.
"""

from grafana.source.boards import annotation
from grafana.source.queries import OF_TENANT, over_time, table_of

_RATE_CARDS = """
SELECT
    parseDateTimeBestEffort(version, 'UTC')                       AS time,
    concat('prices of ', card, ', version of ', version)          AS text,
    'rate card'                                                   AS tags
FROM
(
    SELECT DISTINCT
        splitByChar('@', rate_version)[1]                                 AS card,
        replaceOne(splitByChar('@', rate_version)[2], '+tenant', '')      AS version
    FROM rated_messages
    WHERE {where}$__timeFilter(occurred_at) AND position(rate_version, '@') > 0
)
WHERE $__timeFilter(parseDateTimeBestEffort(version, 'UTC'))
ORDER BY time
"""

RATE_CARDS = annotation("Rate cards change", "purple", table_of(_RATE_CARDS.format(where="")))
RATE_CARDS_OF_TENANT = annotation(
    "Rate cards change", "purple", table_of(_RATE_CARDS.format(where=f"{OF_TENANT} AND "))
)

PLANS_OF_TENANT = annotation(
    "Plan changes",
    "blue",
    table_of(
        f"""
SELECT
    effective_at AS time,
    concat('plan changed: ', toString(amount_micros / 1000000), ' credits') AS text,
    'plan' AS tags
FROM ledger_entries AS entry FINAL
WHERE {OF_TENANT} AND kind = 'plan_change' AND $__timeFilter(effective_at)
ORDER BY time
"""
    ),
)

_LEVELS = """
SELECT
    occurred_at AS time,
    concat({who}toString(level), ' % of ', toString(limit_micros / 1000000), ' credits used') AS text,
    'alert' AS tags
FROM alerts AS alert FINAL
WHERE {where}$__timeFilter(occurred_at)
ORDER BY time
LIMIT 500
"""

ALERTS_OF_TENANT = annotation(
    "Alerts of the tenant", "orange", table_of(_LEVELS.format(who="", where=f"{OF_TENANT} AND "))
)
HIGH_ALERTS = annotation(
    "Tenants reach 95 %", "orange", table_of(_LEVELS.format(who="tenant, ': ', ", where="level >= 95 AND "))
)

FIRING = annotation(
    "Alerts that fire",
    "red",
    over_time('ALERTS{alertname=~"Msgmeter.*", alertname!="MsgmeterWatchdog", alertstate="firing"}'),
    title="{{alertname}}",
    text="{{severity}}: see the runbook of this name",
)
