"""Every metric of `msgmeter reconcile --every`: whether what is stored is what the log says.

Not shown before the first run has ended: no drift found is not the same as none looked for.
"""

from pipeline.metrics.registry import Figure, Figures, counter_of, new_registry

RESULTS = ("agrees", "differs", "incomplete", "failed")
"""How a run ends: all was compared and is equal, or not; part could not be compared; it was broken off."""

REGISTRY = new_registry("reconcile")

RUNS = counter_of(REGISTRY, "msgmeter_reconcile_runs", "Runs ended.", "result", RESULTS)

RUN = Figures(
    REGISTRY,
    {
        "reconcile_drift_rows": Figure(
            "Rows that are stored otherwise than the log says, at the last run that could compare all there are, by"
            " what they are about.",
            "subject",
        ),
        "reconcile_last_run_timestamp_seconds": Figure(
            "When the last run ended that did not fail, in seconds since 1970."
        ),
        "reconcile_last_agreement_timestamp_seconds": Figure(
            "When the last run ended that found everything equal, in seconds since 1970."
        ),
        "reconcile_seconds": Figure("How long the last run took."),
        "reconcile_records_compared": Figure("Records of the log that the last run compared."),
    },
)
