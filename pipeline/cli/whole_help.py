"""A group of commands whose help gives the first sentence of each, whole: click cuts it where a line ends.

Decides nothing but that, and the order, which is the one in which commands were added.
"""

import click

_LONGEST_SENTENCE = 200


class WholeHelp(click.Group):
    """The class of every group here."""

    group_class = type
    """Groups in it are of the same class."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which they were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and sentences; a long one goes on in the next line."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_LONGEST_SENTENCE))
            for name, command in commands
            if command is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
