"""Builds: a C program with make, a Python environment with a package in it."""

import sys
from pathlib import Path

import pytest

from tests.programs.conftest import Run
from tests.served import needs_root

pytestmark = needs_root

_MAKEFILE = """\
objects := $(patsubst %.c,%.o,$(wildcard part*.c)) main.o
CFLAGS = -O1 -Wall -MMD

program: libparts.a
\t$(CC) -o $@ main.o -L. -lparts
libparts.a: $(objects)
\t$(AR) rcs $@ $(filter part%,$^)
clean:
\trm -f program libparts.a *.o *.d
-include $(objects:.o=.d)
"""


@pytest.mark.parametrize("level", ["all", "data"])
def test_make_builds_what_changed_and_no_more(volume: Path, run: Run) -> None:
    count = 12
    (volume / "Makefile").write_text(_MAKEFILE)
    (volume / "parts.h").write_text("".join(f"int part{n}(void);\n" for n in range(count)))
    for number in range(count):
        (volume / f"part{number}.c").write_text(
            f'#include "parts.h"\nint part{number}(void) {{ return {number}; }}\n'
        )
    calls = " + ".join(f"part{n}()" for n in range(count))
    (volume / "main.c").write_text(
        f'#include <stdio.h>\n#include "parts.h"\n'
        f'int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    )

    run("make", "-j4", cwd=volume)
    assert run(volume / "program") == "66\n"
    assert "up to date" in run("make", "-j4", cwd=volume)

    (volume / "part3.c").write_text('#include "parts.h"\nint part3(void) { return 1003; }\n')
    said = run("make", "-j4", cwd=volume)
    assert run(volume / "program") == "1066\n"
    assert "part3.c" in said
    assert "part4.c" not in said
    run("make", "clean", cwd=volume)
    assert not list(volume.glob("*.o"))


def test_a_python_environment_works_on_the_volume(volume: Path, tmp_path: Path, run: Run) -> None:
    wheel = _wheel(tmp_path)
    environment = volume / "environment"
    run(sys.executable, "-m", "venv", environment)
    pip = (environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check")

    run(*pip, "install", "--no-index", "--no-cache-dir", wheel)
    assert run(environment / "bin" / "greet") == "greetings from 1.0\n"
    assert "greeting" in run(*pip, "list")
    run(*pip, "check")

    run(*pip, "uninstall", "--yes", "greeting")
    assert not (environment / "bin" / "greet").exists()


def _wheel(directory: Path) -> Path:
    """Make the wheel of a package without needing a build backend."""
    import base64
    import hashlib
    import zipfile

    files = {
        "greeting/__init__.py": "from greeting.text import TEXT\n\ndef main():\n    print(TEXT)\n",
        "greeting/text.py": 'TEXT = "greetings from 1.0"\n',
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        "greeting-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    entries = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest())
        entries.append(f"{name},sha256={digest.decode().rstrip('=')},{len(content)}\n")
    files["greeting-1.0.dist-info/RECORD"] = "".join(entries) + "greeting-1.0.dist-info/RECORD,,\n"
    wheel = directory / "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel
