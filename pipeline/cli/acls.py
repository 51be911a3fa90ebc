"""`msgmeter acls`: what each role may do in Kafka, as calls of Kafka's own tool, or set at once.

Takes settings, which name the topics and, with --apply, log in as an administrator; gives the calls, or what was set.
Without --apply it asks nobody.
"""

from pathlib import Path

import click

from pipeline.settings import load_settings

_HEAD = """\
# Run these in the bin directory of Kafka, as an administrator whose login admin.properties holds.
# Before that, put the names of your users in place of the roles after User: (gateway, scheduler, operator, worker,
# alerts, migrate), and the name of your group of alerts' readers in place of alerts-.\
"""


@click.command()
@click.option(
    "--apply",
    "is_applied",
    is_flag=True,
    help="Set them at MSGMETER_KAFKA, for users named like roles; MSGMETER_KAFKA_USER is an administrator.",
)
@click.option(
    "--passwords",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --apply: also make a user of each role, whose password is in the file kafka_ROLE there.",
)
def acls(is_applied: bool, directory: Path | None) -> None:
    """List the calls of kafka-acls.sh that let each role do what it needs, and no more; or set them.

    Users are named like roles here; name yours instead. admin.properties holds an administrator's login. With --apply
    what is no longer listed stays permitted.
    """
    from pipeline.access import acl_command, permissions  # noqa: PLC0415 - Kafka's client is not wanted before

    if directory is not None and not is_applied:
        raise click.UsageError("--passwords goes with --apply")
    settings = load_settings()
    if not is_applied:
        click.echo(_HEAD)
        for permission in permissions(settings):
            click.echo(acl_command(permission, settings.kafka))
        return
    from pipeline.granting import AccessSetter  # noqa: PLC0415 - as above

    roles = sorted({permission.role for permission in permissions(settings)})
    password_by_role = {role: _password(directory / f"kafka_{role}") for role in roles} if directory else {}
    broker = AccessSetter(settings)
    if password_by_role:
        broker.set_passwords(password_by_role)
        click.echo(f"users: {', '.join(password_by_role)}")
    click.echo(f"permissions: {broker.grant()}")


def _password(file: Path) -> str:
    try:
        password = file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise click.UsageError(f"{file} cannot be read: {reason}") from None
    if not password:
        raise click.UsageError(f"{file} is empty")
    return password
