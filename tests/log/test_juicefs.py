"""JuiceFS's own tools read the lines that are made for them."""

import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

from fusevol.names import encode_name
from fusevol.record.formats import juicefs
from fusevol.record.record import OPERATIONS, AccessRecord
from fusevol.record.times import Timestamps
from tests.patience import PATIENCE_S

JUICEFS: Final = Path(sys.executable).with_name("juicefs")

_BEGIN_NS: Final = 1_795_485_787_000_000_000


def test_profile(tmp_path: Path) -> None:
    choose = random.Random(1)
    expected: dict[str, list[int]] = defaultdict(list)
    log = tmp_path / "jfs.log"
    with log.open("wb") as file:
        for seq in range(1, 5001):
            record = AccessRecord(
                time=Timestamps().of(_BEGIN_NS + seq * 1_000_000), seq=seq, volume="data",
                op=choose.choice(OPERATIONS), path="/" + encode_name(choose.randbytes(30)),
                ino=seq, result=choose.choice(("ok", "ENOENT", "errno 4711")),
                us=choose.randrange(10**7), uid=0, gid=0, pid=seq,
                offset=0, size=seq, comm=encode_name(choose.randbytes(15)),
            )  # fmt: skip
            expected[record.op].append(record.us)
            file.write(juicefs.encode(record) + b"\n")
    done = subprocess.run(
        [JUICEFS, "profile", "--interval", "0", log],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    # A line that it cannot read is a warning.
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()[2:] if line]
    assert {row[0]: int(row[1]) for row in rows} == {op: len(us) for op, us in expected.items()}
    for op, _count, _average, total, _percent in rows:
        # It cuts floats to microseconds, so that each may be short by one.
        assert 0 <= sum(expected[op]) - int(total) <= len(expected[op])
