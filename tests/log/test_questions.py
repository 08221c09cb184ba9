"""The questions of the documentation can be asked, and have the answers they should have."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from benchmarks.questions import Question, questions
from fusevol.record.record import AccessRecord, encode
from tests.patience import PATIENCE_S

QUESTIONS: Final = {one.title: one for one in questions()}
CONTAINER: Final = "4d5e" * 16
FILE: Final = "/project007/unpacked/src/lib/file54.txt"


def make(seq: int, op: str, path: str, **keys: str | int) -> AccessRecord:
    record = AccessRecord(
        time=f"2026-11-23T10:00:{seq:02d}.000000Z", seq=seq, volume="data", op=op, path=path,
        result="ok", us=1000 * seq, uid=33, gid=0, pid=17059, comm="rm", container=CONTAINER,
    )  # fmt: skip
    for key, value in keys.items():
        setattr(record, key, value)
    return record


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "data.log"
    records = (
        make(1, "read", "/secret.txt", bytes_read=4096),
        make(2, "write", "/grown/file", offset=100, size=11, bytes_written=11),
        make(3, "unlink", FILE),
        make(4, "rename", "/project007/found.txt", to="/elsewhere.txt"),
        make(5, "write", "/full", offset=0, size=9, result="ENOSPC"),
    )
    path.write_bytes(b"".join(encode(record) + b"\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Who deleted that file?", ["unlink", FILE, "uid=33", "rm", "4d5e4d5e4d5e"]),
        ("Which container wrote the most?", [CONTAINER, "11"]),
        ("What did this process touch?", ["/secret.txt", "/grown/file", FILE]),
        ("Is the volume slow, and why?", ["rename", "4000"]),
        ("Which files were read by this user?", ["/secret.txt", "4096"]),
        ("What fails, and for whom?", ["ENOSPC", "/full", "4d5e4d5e4d5e", "33"]),
        ("What grew?", ["/grown", "111"]),
        ("Who renamed or overwrote it?", ["/elsewhere.txt", "4d5e4d5e4d5e"]),
        ("Who is busiest, minute by minute?", ["10:00:00", "4d5e4d5e4d5e", "15"]),
        ("Who went where they had never been before?", ["/grown", "4d5e4d5e4d5e", "write"]),
    ],
)
def test_question(log: Path, title: str, words: list[str]) -> None:
    question: Question = QUESTIONS[title]
    done = subprocess.run(
        question.about(log), capture_output=True, text=True, timeout=PATIENCE_S, check=True,
        env={"TZ": "UTC", "LC_ALL": "C.UTF-8", "HOME": "/"},
    )  # fmt: skip
    assert done.stderr == ""
    for word in words:
        assert word in done.stdout


def test_each_question_is_asked_once() -> None:
    assert len(QUESTIONS) == 10
