"""Every metric of `msgmeter up`: whether the processes it started run, and what they take of the machine.

Broker and ClickHouse front need none of their own beyond that: what matters of them shows in the worker's lag,
inserts and answers. Servers that were running before are not ours to watch, and are left out.
"""

from prometheus_client.core import CounterMetricFamily

from pipeline.metrics.registry import Figure, Figures, new_registry

REGISTRY = new_registry("stack")

STACK = Figures(
    REGISTRY,
    {
        "stack_process_up": Figure("1: the process runs; 0: it died, or has not started yet.", "process"),
        "stack_process_restarts": Figure(
            "How often it was started again after it had died.", "process", CounterMetricFamily
        ),
        "stack_process_resident_bytes": Figure("Resident memory of each process that runs.", "process"),
        "stack_disk_free_bytes": Figure("Room left for this user where data and logs are."),
    },
)
