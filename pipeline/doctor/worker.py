"""What the worker of this machine says at its metrics port, where one answers.

Takes host and port; gives findings. A worker's metrics have a thread of their own: where the port takes connections and
nothing comes, the whole process stands still.
"""

import time
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version

from prometheus_client.parser import text_string_to_metric_families

from pipeline.doctor.clocks import TOLERATED_MILLISECONDS
from pipeline.doctor.findings import Finding, failure, ok, skipped, warning
from pipeline.doctor.kafka import STALE_MILLISECONDS
from pipeline.metrics.serving import metrics_url

_SECONDS = 3.0
_SUBJECT = "worker here"


def examine_worker(host: str, port: int) -> list[Finding]:
    """What a worker of this machine says of itself; `host` is the IP address that it serves on."""
    if not port:
        return [skipped(_SUBJECT, "MSGMETER_METRICS_PORT is 0: its port is in its log, and not known here")]
    address = metrics_url(host, port)
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:  # noqa: S310 - metrics_url gives http
            text = answer.read().decode("utf-8", "replace")
    except OSError as error:
        reason = getattr(error, "reason", error)
        # Also while connecting: where others have asked before, the kernel's queue is full and takes no more.
        if not isinstance(reason, TimeoutError):
            text = f"none answers at {address} ({reason}); the group misses one only after MSGMETER_SESSION_SECONDS"
            return [skipped(_SUBJECT, text)]
        remedy = "end it with kill -9, and start it again: others take over meanwhile, and nothing is lost"
        return [failure(_SUBJECT, f"{address} is taken, and does not answer: it stands still", remedy)]
    return judge_worker(address, text, version("msgmeter"), time.time())


def judge_worker(address: str, text: str, ours: str, now: float) -> list[Finding]:
    """Judge a page of metrics; `now` in seconds since 1970."""
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError:
        families = []
    samples = [sample for family in families for sample in family.samples]
    versions = [
        sample.labels["version"]
        for sample in samples
        if sample.name == "msgmeter_build_info" and sample.labels.get("process") == "worker"
    ]
    if not versions:
        return [
            warning(
                _SUBJECT, f"{address} answers, but it is no worker", "set MSGMETER_METRICS_PORT to a free one"
            )
        ]
    figures = {sample.name.removeprefix("msgmeter_"): sample.value for sample in samples if not sample.labels}
    return [_release(versions[0], ours), _work(figures, now)]


def _release(theirs: str, ours: str) -> Finding:
    if theirs == ours:
        return ok(_SUBJECT, f"runs release {theirs}")
    return warning(_SUBJECT, f"runs release {theirs}, and this is {ours}", "run the same release everywhere")


def _work(figures: Mapping[str, float], now: float) -> Finding:
    subject = "its work"
    owned = int(figures.get("partitions_owned", 0))
    behind = int(figures.get("consumer_lag_offsets", 0))
    last = figures.get("epoch_last_success_timestamp_seconds", 0)
    found = f"{owned} partitions taken up, {behind:,} records not folded yet"
    if not last:
        return ok(subject, f"{found}; no epoch was stored yet")
    age = max(now - last, 0)
    found += f", last epoch stored {age:.0f} s ago"
    uncommitted = int(figures.get("uncommitted_offsets", 0))
    if (behind or uncommitted) and age * 1000 > STALE_MILLISECONDS + TOLERATED_MILLISECONDS:
        return failure(subject, found, "look at its log: ClickHouse or Kafka may be away, or slow")
    return ok(subject, found)
