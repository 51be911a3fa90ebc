"""The four Grafana dashboards as code: `python -m grafana.source` writes them as JSON, and a test compares.

`queries` makes targets, `panels` makes panels, `boards` lays them out; one module per dashboard says what is asked.
"""

import warnings

with warnings.catch_warnings():
    # The SDK warns of classic dashboards at import. They are what every Grafana since 9 loads from files, and what
    # lies in a folder beside others; the newer form is for its API.
    warnings.simplefilter("ignore", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.builders.prometheus  # noqa: F401
