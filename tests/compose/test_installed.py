"""The project as the image installs it: from a wheel, with no checkout around it."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from docker_files import ROOT

_QUESTION = """
import pipeline
from pipeline.clickhouse.migrate import SQL_DIRECTORY, read_migrations
from pipeline.data import load_rate_cards, plan_names
print(pipeline.__file__, SQL_DIRECTORY, len(read_migrations(SQL_DIRECTORY)), len(plan_names()), len(load_rate_cards()))
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installation_brings_migrations_queries_and_data_with_it(tmp_path: Path) -> None:
    # What the Dockerfile copies; a wheel is built in the folder itself.
    source = tmp_path / "source"
    source.mkdir()
    run("cp", "-r", *(ROOT / name for name in ("pyproject.toml", "README.md", "pipeline", "sql")), source)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        source,
    )
    # Its dependencies are lent, to save their download; the checkout is on no path of theirs.
    lent = next((environment / "lib").glob("python*/site-packages")) / "lent.pth"
    lent.write_text(sysconfig.get_path("purelib"))
    package, directory, *counts = run(python, "-c", _QUESTION).split()
    assert Path(package).is_relative_to(environment)
    assert directory == str(environment / "share" / "msgmeter" / "sql")
    assert min(map(int, counts)) > 0
    for file in (ROOT / "sql").rglob("*.sql"):
        installed = Path(directory) / file.relative_to(ROOT / "sql")
        assert installed.read_bytes() == file.read_bytes()
    assert "worker" in run(environment / "bin" / "msgmeter", "--help")
