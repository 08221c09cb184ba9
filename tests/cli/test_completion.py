"""Completion in shells: the scripts, and what they offer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.served import FUSEVOL, fusevol, serve

ENVIRONMENT = {**os.environ, "PATH": f"{Path(FUSEVOL).parent}:{os.environ['PATH']}"}


def offered(*words: str) -> list[str]:
    """Return what a shell offers when TAB is pressed after `words`."""
    done = subprocess.run(
        [FUSEVOL],
        env={
            **ENVIRONMENT,
            "_FUSEVOL_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("fusevol", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_is_valid(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "completion"
    script.write_text(fusevol("completion", shell).stdout)
    subprocess.run([shell, "-n", script], check=True)


def test_bash_completes_with_the_script() -> None:
    done = subprocess.run(
        [
            "bash",
            "--norc",
            "-c",
            """
            eval "$(fusevol completion bash)"
            COMP_WORDS=(fusevol unm) COMP_CWORD=1
            _fusevol_completion fusevol
            printf '%s\\n' "${COMPREPLY[@]}"
            complete -p fusevol
            """,
        ],
        env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "unmount",
        "complete -o nosort -F _fusevol_completion fusevol",
    ]


def test_unknown_shell() -> None:
    done = fusevol("completion", "csh", check=False)
    assert done.returncode == 2
    assert "csh" in done.stderr


def test_commands() -> None:
    assert {"mount", "unmount", "status", "log", "doctor"} <= set(offered(""))


def test_record_levels() -> None:
    assert offered("mount", "--record", "") == ["all", "data"]
    assert offered("mount", "--record", "d") == ["data"]


def test_options_of_mounts_and_volumes() -> None:
    assert offered("mount", "-o", "on_") == ["on_log_failure=continue", "on_log_failure=deny"]
    assert offered("mount", "-o", "ro,rotate_") == ["ro,rotate_size=", "ro,rotate_age="]
    assert offered("volume", "update", "-o", "noex") == ["noexec=true", "noexec=false"]


def test_operations_of_the_log() -> None:
    assert offered("log", "tail", "--op", "un") == ["unlink", "unmount"]
    assert offered("log", "tail", "--op", "read,un") == ["read,unlink", "read,unmount"]
    assert offered("log", "tail", "--result", "EACC") == ["EACCES"]


def test_mount_points(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        for command in ("unmount", "reload"):
            assert offered(command, str(tmp_path)) == [str(served.mountpoint)]
