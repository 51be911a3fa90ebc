"""The command line: `msgmeter`.

Data goes to standard output, progress and errors to standard error. Exit codes: 0 done, 1 some of the input was
refused, 2 the call or the settings are wrong, 3 a service could not be used; `reconcile` also exits with 4 where
something differs, and with 5 where nothing does but something could not be compared; `doctor` with 6 where something
is broken.
"""

import logging
import sys
from importlib import import_module

import click

from pipeline.cli.visible import visible_text
from pipeline.cli.whole_help import WholeHelp
from pipeline.errors import MsgmeterError
from pipeline.settings import SettingsError

_MODULE_BY_COMMAND = {
    "up": "pipeline.cli.up:up",
    "worker": "pipeline.cli.run:worker",
    "schedule": "pipeline.cli.schedule:schedule",
    "migrate": "pipeline.cli.run:migrate",
    "repartition": "pipeline.cli.run:repartition",
    "settings": "pipeline.cli.run:settings",
    "acls": "pipeline.cli.acls:acls",
    "doctor": "pipeline.cli.doctor:doctor",
    "generate": "pipeline.cli.traffic:generate",
    "send": "pipeline.cli.traffic:send",
    "simulate": "pipeline.cli.simulate:simulate",
    "segments": "pipeline.cli.explain:segments",
    "locate": "pipeline.cli.explain:locate",
    "account": "pipeline.cli.account:account",
    "packages": "pipeline.cli.packages:packages",
    "usage": "pipeline.cli.usage:usage",
    "balance": "pipeline.cli.balance:balance",
    "statement": "pipeline.cli.statement:statement",
    "messages": "pipeline.cli.messages:messages",
    "contacts": "pipeline.cli.contacts:contacts",
    "trace": "pipeline.cli.trace:trace",
    "refusals": "pipeline.cli.refusals:refusals",
    "retry": "pipeline.cli.retry:retry",
    "reconcile": "pipeline.cli.reconcile:reconcile",
}
"""In the order of the help: run it, feed it, ask it. Loaded when used, since Faust takes a second to import."""


class _Commands(WholeHelp):
    """The group of all commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_MODULE_BY_COMMAND)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = _MODULE_BY_COMMAND.get(cmd_name)
        if place is None:
            return None
        module, name = place.split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command; our own errors become one line of text and an exit code."""
        # The driver logs a traceback of every lost connection, which reaches us as an error as well.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        # And urllib3 warns of each try to connect.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        try:
            return super().invoke(ctx)
        except MsgmeterError as error:
            _tell(error)
            ctx.exit(2 if isinstance(error, SettingsError) else 3)


def _tell(error: MsgmeterError) -> None:
    """The last words of a command; of a process that logs JSON, as the last line of its log."""
    # Not loaded by a command that has no log.
    logs = sys.modules.get("pipeline.logs")
    if logs is not None and logs.is_json_logged():
        logging.getLogger("msgmeter").critical("msgmeter: %s", error)
        return
    # It may quote a log, and a log what strangers wrote.
    click.echo("\n".join(map(visible_text, f"msgmeter: {error}".split("\n"))), err=True)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="msgmeter")
def main() -> None:
    """Meter messages: each counted exactly once, rated in credits, and explained."""
