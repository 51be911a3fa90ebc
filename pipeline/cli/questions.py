"""What the asking commands share: a tenant's account or exit code 1, and dates and instants in its own zone.

Takes what the caller typed and ClickHouse's answers; gives accounts, dates and texts. `usage`, `balance`,
`statement`, `messages` and `contacts` ask; none of them writes, and none asks a worker. What they know is as of the
last checkpoint.
"""

import re
from datetime import UTC, date, datetime, timedelta

import click
from clickhouse_connect.driver.client import Client

from pipeline.clickhouse.queries import AccountSnapshot, account_of_tenant, organization_accounts
from pipeline.core.windows import local_day, local_time

FIRST_DATE, _LAST_DATE = date(2000, 1, 1), date(2999, 12, 31)
"""Of the days that can be bounded."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class _Date(click.ParamType):
    """A calendar date."""

    name = "date"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Read YYYY-MM-DD; fails with a sentence for the user."""
        if isinstance(value, date):
            return value
        text = str(value)
        try:
            # `fromisoformat` reads other forms too, which nobody would guess here.
            day = date.fromisoformat(text if _DATE.fullmatch(text) else "")
        except ValueError:
            self.fail(f"there is no date {text!r}: write YYYY-MM-DD, such as 2026-02-03", param, ctx)
        if not FIRST_DATE <= day <= _LAST_DATE:
            self.fail(f"{text} is not from {FIRST_DATE} to {_LAST_DATE}", param, ctx)
        return day


DATE = _Date()


def account_of(client: Client, tenant: str) -> AccountSnapshot:
    """The tenant's account; ends the command with exit code 1 where there is none."""
    account = account_of_tenant(client, tenant)
    if account is None:
        click.echo(
            f"msgmeter: no account of tenant {tenant!r}. An account is stored at a checkpoint, every 10 s by default,"
            " after its first charged message or accepted command: try again; names are case-sensitive.",
            err=True,
        )
        raise click.exceptions.Exit(1)
    return account


def accounts_of(client: Client, organization: str) -> list[AccountSnapshot]:
    """The accounts of an organization's tenants; ends the command with exit code 1 where there are none."""
    accounts = organization_accounts(client, organization)
    if not accounts:
        click.echo(
            f"msgmeter: no tenant belongs to an organization {organization!r}."
            " `msgmeter account organization TENANT NAME` puts one into it; names are case-sensitive.",
            err=True,
        )
        raise click.exceptions.Exit(1)
    return accounts


def one_of(tenant: str | None, organization: str | None) -> None:
    """Raise UsageError unless either a tenant or an organization is named."""
    if (tenant is None) == (organization is None):
        raise click.UsageError("Give either TENANT or --organization")


def today(zone: str) -> date:
    """The date that it is now in a zone."""
    return local_date((datetime.now(UTC) - _EPOCH) // timedelta(milliseconds=1), zone)


def days_before(last: date, days: int) -> date:
    """The date so many days before another, or the first there is."""
    return max(FIRST_DATE, last - timedelta(days=days))


def local_date(at: int, zone: str) -> date:
    """The date of an instant in a zone."""
    return date_of(local_day(at, zone))


def date_of(day: int) -> date:
    """The date of a day counted from 1970-01-01."""
    return _EPOCH.date() + timedelta(days=day)


def rfc3339(at: int) -> str:
    """An instant as RFC 3339 in UTC, whole seconds."""
    return f"{_EPOCH + timedelta(milliseconds=at):%Y-%m-%dT%H:%M:%SZ}"


def clock_time(at: int, zone: str) -> str:
    """The date, hour and minute that clocks in a zone show at an instant."""
    return f"{local_time(at, zone):%Y-%m-%d %H:%M}"


def check_order(first: date | None, last: date | None) -> None:
    """Raise UsageError where a range of dates is the wrong way round."""
    if first and last and last < first:
        raise click.UsageError(f"--to {last} is before --from {first}")
