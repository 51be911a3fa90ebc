"""The four Grafana dashboards as code: `python -m grafana.source` writes them as JSON, and a test compares.

`queries` makes targets, `panels` makes panels, `boards` lays them out; one module per dashboard says what is asked.
"""
