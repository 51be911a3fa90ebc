"""Random histories of one account: messages of all times and every command, right and wrong, each from its own seed.

Ids of grants, reservations and recharges are guessed from what was sent before, so that some fit and some do not.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from tests.builders import DAY, HOUR, MINUTE, Log, Record, instant, plan

START = instant("2026-02-24T09:00")
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Chatham")
LISTS = ("", "", "north", "south", "west")
CAMPAIGNS = ("", "", "spring", "summer")
KINDS = ("sms", "sms", "sms", "mms", "email", "rcs")


def terms(chance: Random) -> dict[str, Any]:
    """A plan of any sort."""
    document = plan(
        chance.choice(("0", "5", "20", "20", "100")),
        zone=chance.choice(ZONES),
        anchor_day=chance.choice((1, 1, 26, 31)),
        alert_levels=chance.choice(((80, 85, 90, 95), (1, 50, 100), ())),
        late_grace_hours=chance.choice((0, 4, 72, 72, 744)),
        currency="EUR",
        overage={
            "policy": chance.choice(("hard_stop", "hard_stop", "negative", "arrears")),
            "price": chance.choice(("0", "0.02")),
            "settled_by": chance.choice(("nothing", "purchases", "any_grant")),
        },
        refunded_statuses=chance.choice(([], ["failed"], ["failed", "undelivered"])),
        quotas=chance.choice(({}, {"email": 3})),
        ends_after_days=chance.choice((0, 0, 0, 0, 14)),
    )
    if chance.random() < 0.4:
        document["rollover"] = {
            "valid_months": chance.choice((0, 1, 2, 12)),
            "cap_credits": chance.choice((None, "0", "7", "30")),
            "floor_credits": chance.choice(("0", "0", "3")),
        }
    if chance.random() < 0.5:
        document["recharge"] = {
            "level_credits": chance.choice(("0", "4", "15")),
            "block_credits": chance.choice(("5", "30")),
            "price": "10",
            "delay_minutes": chance.choice((0, 0, 30)),
            "cool_down_minutes": chance.choice((1, 60, 1440)),
            "daily_cap": chance.choice((1, 1, 2, 50)),
            "back_off_minutes": chance.choice((1, 60, 1000)),
        }
    return document


class History:
    """A log that grows by one record per seed."""

    def __init__(self, first_plan: dict[str, Any] | None = None) -> None:
        self.log = Log(START)
        self.first_plan = first_plan

    def begin(self, chance: Random) -> None:
        """Puts the account under its first plan."""
        self.log.set_plan(
            self.first_plan or terms(chance),
            effective_at=START - chance.choice((0, DAY, 40 * DAY, 400 * DAY)),
        )

    def append(self, chance: Random) -> None:
        """One record, whatever it is."""
        log = self.log
        log.now += chance.choice((0, 0, 1, MINUTE, HOUR, HOUR, 5 * HOUR, DAY, 3 * DAY, 20 * DAY))
        what: Callable[[Random], Record] = chance.choices(_KINDS, _WEIGHTS)[0].__get__(self)
        what(chance)

    def message(self, chance: Random) -> Record:
        late = chance.choice((0, 0, 0, 0, HOUR, 3 * HOUR, DAY, 4 * DAY, 40 * DAY, -20 * HOUR))
        kind = chance.choice(KINDS)
        return self.log.message(
            f"m{len(self.log.records)}",
            kind=kind,
            body=None,
            segments=chance.choice((1, 1, 2, 5, 13)) if kind == "sms" else None,
            occurred_at=self.log.now - late,
            status_at=self.log.now,
            list=chance.choice(LISTS) or None,
            campaign=chance.choice(CAMPAIGNS) or None,
        )

    def final_status(self, chance: Random) -> Record:
        """Says of an earlier message that it failed, or repeats it."""
        sent = [each for each in self.log.records if b'"status"' in (each.value or b"")]
        if not sent:
            return self.log.tick()
        record = chance.choice(sent[-5:])
        assert record.value is not None
        value = record.value.replace(b'"sent"', chance.choice((b'"sent"', b'"failed"', b'"undelivered"')))
        return self.log.append(record.key, value)

    def set_plan(self, chance: Random) -> Record:
        at = self.log.now + chance.choice((0, 0, 0, -DAY, -40 * DAY, 2 * HOUR, 2 * DAY, 30 * DAY))
        return self.log.set_plan(terms(chance), effective_at=at)

    def grant(self, chance: Random) -> Record:
        now = self.log.now
        start = now + chance.choice((0, 0, -DAY, DAY, 20 * DAY))
        ending: dict[str, Any] = chance.choice(
            (
                {},
                {},
                {"valid_months": 1},
                {"expires_at": max(start, now) + chance.choice((HOUR, DAY, 9 * DAY))},
            )
        )
        return self.log.grant(
            chance.choice(("0.5", "3", "10", "40")),
            kind=chance.choice(("purchase", "promotion")),
            priority=chance.choice((50, 100, 500)),
            effective_at=start,
            is_extended=chance.random() < 0.4,
            cost=chance.choice(("0", "2.5")),
            currency="EUR",
            **ending,
        )

    def _of(self, chance: Random, command_type: str) -> str:
        """The id of one of the last commands of a type."""
        ids = [
            f"c{each.offset}"
            for each in self.log.records
            if each.value and f'"type":"{command_type}"'.encode() in each.value
        ]
        return chance.choice(ids[-3:]) if ids else "none"

    def void(self, chance: Random) -> Record:
        return self.log.command("void_grant", grant=f"purchase:{self._of(chance, 'grant')}")

    def adjust(self, chance: Random) -> Record:
        return self.log.command("adjust", credits=chance.choice(("-1", "-6", "-30", "2")))

    def allocate(self, chance: Random) -> Record:
        share = chance.choice((None, "0", "1", "4", "11", "0.000003"))
        return self.log.command("allocate", list=chance.choice(LISTS[2:]), credits=share)

    def reserve(self, chance: Random) -> Record:
        return self.log.command(
            "reserve",
            credits=chance.choice(("1", "2", "8", "30")),
            expires_at=self.log.now + chance.choice((HOUR, DAY, 30 * DAY)),
            campaign=chance.choice(CAMPAIGNS),
            list=chance.choice(LISTS),
        )

    def authorise(self, chance: Random) -> Record:
        hold = {"reserve_until": self.log.now + DAY} if chance.random() < 0.5 else {}
        return self.log.command(
            "authorise",
            sendings=[{"count": chance.choice((1, 7, 100)), "kind": chance.choice(KINDS)}],
            list=chance.choice(LISTS),
            campaign=chance.choice(CAMPAIGNS),
            **hold,
        )

    def commit(self, chance: Random) -> Record:
        amount = chance.choice(("0.5", "1", "8"))
        held = self._of(chance, chance.choice(("reserve", "reserve", "authorise")))
        return self.log.command("commit_reservation", reservation=held, credits=amount)

    def release(self, chance: Random) -> Record:
        amount = chance.choice((None, "0.5", "1", "8"))
        return self.log.command(
            "release_reservation", reservation=self._of(chance, "reserve"), credits=amount
        )

    def confirm(self, chance: Random) -> Record:
        return self.log.command("confirm_recharge", recharge=f"recharge-{self._recharge_number(chance)}")

    def decline(self, chance: Random) -> Record:
        return self.log.command("decline_recharge", recharge=f"recharge-{self._recharge_number(chance)}")

    def _recharge_number(self, chance: Random) -> int:
        answered = sum(b"_recharge" in (each.value or b"") for each in self.log.records)
        return max(1, answered + chance.choice((1, 1, 0, -1, -2, -3)))

    def tick(self, chance: Random) -> Record:
        return self.log.tick(self.log.now + chance.choice((0, 0, HOUR, 40 * DAY)))


_KINDS, _WEIGHTS = zip(
    (History.message, 40),
    (History.final_status, 5),
    (History.set_plan, 6),
    (History.grant, 8),
    (History.void, 2),
    (History.adjust, 3),
    (History.allocate, 6),
    (History.reserve, 5),
    (History.authorise, 3),
    (History.commit, 3),
    (History.release, 3),
    (History.confirm, 5),
    (History.decline, 3),
    (History.tick, 8),
    strict=True,
)


def make_history(seeds: list[int], first_plan: dict[str, Any] | None = None) -> list[Record]:
    """A log of one plan and one further record per seed."""
    history = History(first_plan)
    history.begin(Random(seeds[0]))
    for seed in seeds[1:]:
        history.append(Random(seed))
    return history.log.records
