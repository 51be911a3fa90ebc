"""`python -m grafana.source`: writes the dashboards to `grafana/dashboards/msgmeter/`."""

from pathlib import Path

from grafana.source.rendered import FOLDER, rendered


def main() -> None:
    """Writes every dashboard."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        Path(FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
