"""Random logs that shrink: each record follows from its own seed, so a failing log loses records from its end.

Everything the folds keep apart happens in a few hours of log time: late messages, receipts before their content,
periods ending, plans changing, drafts given up, windows let go, clocks stepping back.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import orjson
from hypothesis import strategies as st

from pipeline.core.rules import Rules
from pipeline.core.signing import PURPOSE_HEADER
from tests.builders import DAY, HOUR, MINUTE, Log, Record, instant, message, plan, rules

START = instant("2026-02-27T00:00")
TENANTS = ("acme", "bolt")
STATUSES = ("accepted", "queued", "sent", "sent", "delivered", "undelivered", "failed", "read")
KINDS = ("sms", "sms", "sms", "mms", "email", "rcs")
BODIES = (None, None, "short", "x" * 200, "", "ü" * 100 + "☃")
LEVELS = ((80, 85, 90, 95), (1, 50, 100), ())
REFUNDED = (("undelivered", "failed"), ("failed",), ())
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Chatham")

seeds = st.builds(
    lambda seed, count: [Random(f"{seed} {position}").getrandbits(32) for position in range(count)],
    st.integers(0, 2**32),
    st.integers(1, 60),
)
"""One seed per record: a list of integers drawn one by one comes out short and full of zeros."""


def small_rules(**fields: Any) -> Rules:
    """Rules under which a log of days reaches every bound; `fields` win."""
    bounds = {
        "identity_milliseconds": 6 * HOUR,
        "identity_limit": 3,
        "pending_milliseconds": 12 * HOUR,
        "pending_limit": 2,
        "window_milliseconds": 6 * HOUR,
    }
    return rules(**{**bounds, **fields})


def make_log(
    event_seeds: list[int], *, is_orderly: bool = False, levels: Sequence[tuple[int, ...]] = LEVELS
) -> list[Record]:
    """A log of one record per seed; an orderly one has no refusals. The first levels are those of the beginning."""
    log = Log(START)
    for tenant in TENANTS:
        terms = plan("20", late_grace_hours=4, alert_levels=levels[0], refunded_statuses=REFUNDED[0])
        log.set_plan(terms, tenant=tenant, effective_at=START - DAY)
    for seed in event_seeds:
        append_event(log, Random(seed), levels, is_orderly=is_orderly)
    return log.records


def append_event(
    log: Log,
    chance: Random,
    levels: Sequence[tuple[int, ...]] = LEVELS,
    *,
    is_orderly: bool = False,
    tenants: Sequence[str] = TENANTS,
) -> None:
    """One more record of whatever kind, of one of the tenants."""
    log.now += chance.choice((0, 0, 1, MINUTE, 20 * MINUTE, HOUR, HOUR, 5 * HOUR, 30 * HOUR, -30 * MINUTE))
    log.tenant = chance.choice(tenants)
    what = chance.random()
    if what < 0.72:
        _append_message(log, chance, is_orderly=is_orderly)
    elif what < 0.80:
        expires = chance.choice((None, log.now + HOUR, log.now + 3 * DAY, log.now - HOUR))
        log.grant(
            chance.choice(("5", "0.5", "100", "-1")),
            expires_at=expires,
            effective_at=log.now + chance.choice((0, -DAY, DAY)),
            priority=chance.choice((50, 500)),
            command_id=chance.choice((None, None, "again")),
        )
    elif what < 0.90:
        terms = plan(
            chance.choice(("0", "3", "20", "1000")),
            zone=chance.choice(ZONES),
            anchor_day=chance.choice((1, 28, 31)),
            alert_levels=chance.choice(levels),
            late_grace_hours=chance.choice((0, 4, 48)),
            # A plan that comes for the past lets a failure be refunded when it is repeated.
            refunded_statuses=REFUNDED[0] if is_orderly else chance.choice(REFUNDED),
        )
        log.set_plan(terms, effective_at=log.now + chance.choice((0, 0, -2 * DAY, 2 * HOUR, 2 * DAY)))
    elif what < 0.96 or is_orderly:
        log.tick()
    else:
        headers = chance.choice(((), (), ((PURPOSE_HEADER, b"command"),)))
        log.append(log.tenant.encode(), chance.choice((b"{", b"", None, b"\xff", b"[]")), headers)


def _append_message(log: Log, chance: Random, *, is_orderly: bool) -> None:
    """A record of one of few messages, whose immutable fields follow from its number."""
    number = max((log.now - START) // (3 * HOUR) + chance.choice((1, 0, 0, 0, -1, -1, -2, -3, -9)), 0)
    kind = KINDS[number % len(KINDS)]
    occurred_at = START + number * 3 * HOUR + number
    fields = message(
        f"m{number}",
        tenant=log.tenant,
        kind=kind,
        status=chance.choice(STATUSES),
        occurred_at=occurred_at,
        status_at=min(occurred_at, log.now),
        to="+15005550006" if chance.random() < 0.04 and not is_orderly else f"+1415555010{number % 10}",
        body=chance.choice(BODIES) if kind == "sms" else None,
    )
    if kind == "email":
        fields["recipients"] = 1 + number
    if "body" in fields and chance.random() < 0.3:
        fields["segments"] = 2
    if not is_orderly and chance.random() < 0.03:
        fields["body"] = "x" * (153 * 255 + 1)
        fields.pop("segments", None)
    log.append(log.tenant.encode(), orjson.dumps(fields))
