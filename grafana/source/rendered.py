"""The dashboards as the JSON that Grafana loads, by file name."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.source.fleet_and_revenue import fleet_and_revenue
from grafana.source.on_call import on_call
from grafana.source.pipeline_health import pipeline_health
from grafana.source.tenant_usage import tenant_usage

FOLDER = Path(__file__).parents[1] / "dashboards" / "msgmeter"

_BOARDS = {
    "tenant-usage.json": tenant_usage,
    "fleet-and-revenue.json": fleet_and_revenue,
    "pipeline.json": pipeline_health,
    "on-call.json": on_call,
}


def rendered() -> dict[str, str]:
    """The text of every dashboard's file; keys sorted, so that a change of ours is all a diff shows."""
    return {
        name: json.dumps(make(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, make in _BOARDS.items()
    }
