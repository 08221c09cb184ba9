"""What is in the wheel, besides the modules."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_types_and_the_page_are_shipped(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(
        ROOT / "fusevol", tree / "fusevol", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation",
         "--wheel-dir", tmp_path, tree],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(tree))
        for path in tree.glob("fusevol/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "fusevol/py.typed" in files
    assert files <= shipped
