"""The benchmarks run and report every row. Nothing here looks at how long anything took."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("report")
    json_file, markdown_file = directory / "report.json", directory / "report.md"
    files = ["--json", str(json_file), "--markdown", str(markdown_file)]
    chosen = ["--quick", "--only", "ops", "--peers", "native", "--disk-dir", str(directory)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *chosen, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| create + close | us |" in markdown_file.read_text()
    assert sorted(p.name for p in directory.iterdir()) == ["report.json", "report.md"]
    loaded: dict[str, Any] = json.loads(json_file.read_text())
    return loaded


def test_all_rows_are_there(report: dict[str, Any]) -> None:
    assert report["complete"]
    assert report["failures"] == []
    assert [row["row"] for row in report["rows"]] == [
        "create",
        "stat_after",
        "stat_same",
        "stat_missing",
        "open_close",
        "open_write",
        "open_read",
        "pwrite",
        "pread",
        "fstat",
        "readdir",
        "readdir_stat",
        "rename",
        "unlink",
        "mkdir_rmdir",
        "seq_write",
        "seq_read",
        "seq_reread",
    ]


def test_each_row_has_a_value(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        assert row["values"]["native"] == [row["median"]["native"]]
        assert row["median"]["native"] > 0


def test_environment_is_recorded(report: dict[str, Any]) -> None:
    known = {"date", "kernel", "CPU", "cores", "load average", "python"}
    assert known <= report["environment"].keys()


def test_unknown_names_are_refused() -> None:
    for option in ("--only", "--peers"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", option, "nonesuch"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "'nonesuch'" in done.stderr
