"""`msgmeter worker`, `migrate`, `repartition` and `settings`."""

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.settings import describe_settings, load_settings

_TABLE_COLUMNS = 120
"""In a narrower terminal names, defaults and meanings do not fit beside each other."""


@click.command()
def worker() -> None:
    """Run one worker until it is stopped."""
    from pipeline.eras import await_era, settings_in  # noqa: PLC0415
    from pipeline.logs import set_up_logs  # noqa: PLC0415

    settings = load_settings()
    set_up_logs("worker", settings.log_format, settings.log_level)
    era = await_era(settings)
    from pipeline.stream.worker import run_worker  # noqa: PLC0415 - Faust takes a second to import

    run_worker(settings_in(settings, era.number), era)


@click.command()
def migrate() -> None:
    """Create topics and tables that are missing; change nothing else."""
    from pipeline.clickhouse.migrate import apply_migrations, create_database  # noqa: PLC0415
    from pipeline.clickhouse_clients import clickhouse_server, connect_clickhouse  # noqa: PLC0415
    from pipeline.eras import present_era, settings_in  # noqa: PLC0415
    from pipeline.logs import set_up_logs  # noqa: PLC0415
    from pipeline.topics import create_topics  # noqa: PLC0415

    settings = load_settings()
    set_up_logs("migrate", settings.log_format, settings.log_level)
    create_database(clickhouse_server(settings))
    client = connect_clickhouse(settings)
    for applied in apply_migrations(client):
        click.echo(f"table {applied.name}")
    for name in create_topics(settings_in(settings, present_era(client, settings).number)):
        click.echo(f"topic {name}")
    click.echo("up to date")


@click.command()
@click.option(
    "--partitions", required=True, type=click.IntRange(1, 65_535), help="A multiple of what there is now."
)
def repartition(partitions: int) -> None:
    """Give a log that is in use more partitions; workers must be stopped.

    Takes up where it was interrupted. Until it is done no worker starts.
    """
    from pipeline.repartition import repartition as bring_to  # noqa: PLC0415

    bring_to(load_settings(), partitions, click.echo)
    click.echo(f"done: start workers with MSGMETER_PARTITIONS={partitions}")


@click.command()
def settings() -> None:
    """List every setting with its default."""
    console = Console(markup=False)
    described = describe_settings()
    if console.width < _TABLE_COLUMNS:
        for name, default, meaning in described:
            click.echo(f"{name}={default}\n    {meaning}")
        return
    table = Table(
        Column("environment variable", no_wrap=True), Column("default", no_wrap=True), "meaning", box=None
    )
    for row in described:
        table.add_row(*map(Text, row))
    console.print(table)
