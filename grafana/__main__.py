"""Write the dashboards: `python -m grafana`."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.fleet import fleet
from grafana.host import host
from grafana.itself import itself
from grafana.vm import vm

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> list[Dashboard]:
    """All of them, in the order of a look from afar to one at close range."""
    return [fleet(), host(), vm(), itself()]


def text(dashboard: Dashboard) -> str:
    """A dashboard as it is committed: JSON with sorted keys."""
    return json.dumps(dashboard, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in dashboards():
        (FOLDER / f"{dashboard.uid}.json").write_text(text(dashboard))


if __name__ == "__main__":
    main()
