"""The long logs that readers are measured with are what a volume would have written."""

from pathlib import Path

import pytest

from benchmarks import generate_log
from fusevol.record.record import AccessRecord, decode
from tests.served import needs_root

RECORDS = 3000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[AccessRecord]:
    return generate_log.load(generate_log.record_work(tmp_path_factory.mktemp("work")))


@needs_root
def test_generated_log(base: list[AccessRecord]) -> None:
    assert {"lookup", "read", "write", "rename", "unlink", "symlink"} <= {one.op for one in base}
    lines = list(generate_log.scaled(base[:700], RECORDS))
    assert lines == list(generate_log.scaled(base[:700], RECORDS))
    records = [decode(line) for line in lines]
    assert [record.seq for record in records] == list(range(1, RECORDS + 1))
    assert [record.time for record in records] == sorted(record.time for record in records)
    assert len({record.container for record in records}) > 2
    assert len({record.path for record in records}) > len({record.path for record in records[:700]})


@needs_root
def test_it_is_written_to_a_file(base: list[AccessRecord], tmp_path: Path) -> None:
    generate_log.write(tmp_path / "long.log", generate_log.scaled(base, 50_001))
    assert [one.seq for one in generate_log.load(tmp_path / "long.log")] == list(range(1, 50_002))
