"""Whether a process of msgmeter is well, for a container's health check; standard library only, and quick to start.

    healthy.py http://127.0.0.1:9464/metrics msgmeter_partitions_owned
    healthy.py http://127.0.0.1:9465/metrics msgmeter_schedule_last_success_timestamp_seconds --within-seconds 120

Takes the address of its metrics and the name of one; exits with 0 where it answers and the metric is above 0, or, with
--within-seconds, an instant not longer ago than that; else with 1 and one line that says why.
"""

import argparse
import sys
import time
from urllib.request import urlopen

_ANSWER_SECONDS = 4


def _fault(url: str, metric: str, within_seconds: float | None) -> str:
    """What is wrong; empty for nothing."""
    try:
        with urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - the container's own address
            lines = answer.read().decode().splitlines()
    except OSError as error:
        return f"{url} does not answer: {error}"
    values = [float(line.split()[1]) for line in lines if line.split(" ")[0] == metric]
    if not values:
        return f"{url} has no {metric}"
    if within_seconds is not None:
        age_seconds = time.time() - values[0]
        return f"{metric} was {age_seconds:.0f} s ago" if age_seconds > within_seconds else ""
    return "" if values[0] > 0 else f"{metric} is {values[0]:g}"


def main() -> None:
    """Ask once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("metric")
    parser.add_argument("--within-seconds", type=float)
    asked = parser.parse_args()
    if fault := _fault(asked.url, asked.metric, asked.within_seconds):
        sys.exit(fault)


main()
