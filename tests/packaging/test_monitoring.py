"""The alerts, the dashboard and their page, as far as that takes no daemon."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusevol.metrics.catalog import METRICS
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs/monitoring"
ALERTS = MONITORING / "alerts.yml"
PAGE = ROOT / "docs/monitoring.md"


def promtool(*words: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_rules_and_tell_what_goes_wrong() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))


def panels() -> Iterator[dict[str, Any]]:
    """Yield the panels of the dashboard."""
    yield from json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]


def test_no_panel_of_the_dashboard_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_uses_the_data_source_that_was_chosen() -> None:
    for panel in panels():
        if panel["type"] == "row":
            continue
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_metric_is_explained() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text())
    explained = {
        name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows
    }
    assert explained == {one.name: (one.kind.value, one.labels) for one in METRICS}


def test_every_alert_is_explained() -> None:
    alerts = re.findall(r"(?m)^ +- alert: (\w+)$", ALERTS.read_text())
    assert re.findall(r"(?m)^\| `(Fusevol\w+)` \|", PAGE.read_text()) == alerts
