"""docker/clickhouse/users.d in the ClickHouse engine: what each of its users may really do.

The engine in a process knows one user, `default`. So a test asks it as `default` with the definition of another user in
that place; everything else of the file is loaded as it is, hashes of passwords included. It does not read the server's
own settings, so `changeable_in_readonly`, which one of them permits, is left out, and so is the default of who has no
filter (config.d/msgmeter.xml): those two need a server.
"""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from docker_files import ROOT

USERS = ROOT / "docker" / "clickhouse" / "users.d" / "msgmeter.xml"
_BASE = """<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users><default><password/><profile>default</profile><quota>default</quota></default></users>
</clickhouse>
"""
"""As much of the image's users.xml as the file leans on."""
_PROGRAM = """
import json, sys, chdb
connection = chdb.connect(sys.argv[1])
answers = []
for statement in json.load(sys.stdin):
    try:
        answers.append([True, connection.query(statement, "TSV").bytes().decode()])
    except RuntimeError as error:
        answers.append([False, str(error)])
json.dump(answers, sys.stdout)
"""


def engine_configuration(directory: Path, user: str, secrets: Path) -> Path:
    """Write users.xml and users.d with a user in the place of `default`; give the engine's configuration."""
    document = ET.parse(USERS)
    root = document.getroot()
    users = root.find("users")
    assert users is not None
    for each in list(users):
        if each.tag == "default" and user != "default":
            users.remove(each)
    played = users.find(user)
    assert played is not None
    password = played.find("password_sha256_hex")
    if password is not None:
        played.remove(password)
        ET.SubElement(played, "no_password")
    if (grants := played.find("grants")) is not None:
        # Our front says USE where a server is told the database with the request, which asks for no right.
        ET.SubElement(grants, "query").text = "GRANT SHOW DATABASES ON default.*"
    played.tag = "default"
    played.set("replace", "replace")
    for constraint in root.iterfind("profiles/*/constraints/*"):
        for marker in constraint.findall("changeable_in_readonly"):
            constraint.remove(marker)
    (node,) = root.findall("include_from")
    node.text = str(secrets / "clickhouse_passwords.xml")
    folder = directory / user
    (folder / "users.d").mkdir(parents=True)
    (folder / "users.xml").write_text(_BASE)
    document.write(folder / "users.d" / "msgmeter.xml")
    configuration = folder / "config.xml"
    configuration.write_text(
        f"<clickhouse><users_config>{folder / 'users.xml'}</users_config><timezone>UTC</timezone></clickhouse>"
    )
    return configuration


def answers(data: Path, configuration: Path | None, statements: list[str]) -> list[tuple[bool, str]]:
    """(whether it was done, rows or the error) of each statement, in a process of its own: one engine per process."""
    target = f"{data}?config-file={configuration}" if configuration else str(data)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, target],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(succeeded, text) for succeeded, text in json.loads(done.stdout)]
