"""Grafana dashboards as code: `python -m grafana` writes dashboards/*.json. Rules are in rules/."""
