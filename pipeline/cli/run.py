"""`msgmeter worker`, `migrate` and `settings`."""

import logging

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.settings import describe_settings, load_settings


@click.command()
def worker() -> None:
    """Run one worker until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    from pipeline.stream.worker import run_worker  # noqa: PLC0415 - Faust takes a second to import

    run_worker(load_settings())


@click.command()
def migrate() -> None:
    """Create topics and tables that are missing; change nothing else."""
    from pipeline.clickhouse.migrate import apply_migrations, create_database  # noqa: PLC0415
    from pipeline.clickhouse_clients import clickhouse_server, connect_clickhouse  # noqa: PLC0415
    from pipeline.topics import create_topics  # noqa: PLC0415

    settings = load_settings()
    for name in create_topics(settings):
        click.echo(f"topic {name}")
    create_database(clickhouse_server(settings))
    for applied in apply_migrations(connect_clickhouse(settings)):
        click.echo(f"table {applied.name}")
    click.echo("up to date")


@click.command()
def settings() -> None:
    """List every setting with its default."""
    table = Table("environment variable", "default", "meaning", box=None)
    for name, default, meaning in describe_settings():
        table.add_row(*map(Text, (name, default, meaning)))
    Console(markup=False).print(table)
