"""Grafana dashboards as code: `python -m dashboards` writes the JSON beside this file, a test holds it to the source.

One file per dashboard. `series` knows the metric names, `panels` and `board` cover what grafanalib lacks or writes in
a form that current Grafana would have to migrate.
"""
