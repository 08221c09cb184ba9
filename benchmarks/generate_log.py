"""`python -m benchmarks.generate_log RECORDS FILE`: a long access log, made of a real one.

Programs work on a real mount for a moment. Their log is then repeated with other times, paths,
processes, users and containers until it is as long as was asked for. The same base (--base, from an
earlier --keep-base) always gives the same log.
"""

import argparse
import copy
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks import processes
from fusevol.logs.reader import Skipped, read
from fusevol.record.formats.documents import epoch_us
from fusevol.record.record import EVENTS, AccessRecord, encode
from fusevol.record.times import Timestamps

_FUSEVOL: Final = [sys.executable, "-c", "from fusevol.cli.main import main; main()"]
_TIMEOUT_S: Final = 60.0

_WORK: Final = r"""
set -e
cd "$1"
mkdir -p src/lib docs 'with space'
for n in $(seq 60); do seq $((n * 40)) > "src/lib/file$n.txt"; done
cp -a src copy
tar -cf all.tar src
mkdir unpacked && tar -xf all.tar -C unpacked
find . -type f -size +1k > found.txt
grep -rl 123 src > /dev/null
ls -lR . > /dev/null
dd if=/dev/zero of=big bs=64k count=64 2> /dev/null
dd if=big of=/dev/null bs=16k 2> /dev/null
for n in $(seq 20); do cat "no such file $n" 2> /dev/null || true; done
ln -s big link; ln big hard; readlink link > /dev/null
mv hard 'with space/renamed'; chmod 600 big; touch -d yesterday big; truncate -s 10 big
printf x > "$(printf 'caf\351\033[31m')"
rmdir src copy 2> /dev/null || true
echo again > found.txt
rm -r unpacked copy
"""

_PROJECTS: Final = 400
_USERS: Final = (0, 0, 0, 33, 999, 1000, 1001, 70)
_CONTAINERS: Final = 24
_PAUSE_US: Final = 50_000
_MAX_PID: Final = 4_194_304
_BUFFERED_LINES: Final = 20_000


def main() -> int:
    options = _parser().parse_args()
    if options.base:
        base = load(options.base)
        write(options.file, scaled(base, options.records))
        return 0
    with tempfile.TemporaryDirectory(prefix="fusevol-log-") as directory:
        log = record_work(Path(directory))
        if options.keep_base:
            options.keep_base.write_bytes(log.read_bytes())
        base = load(log)
    write(options.file, scaled(base, options.records))
    return 0


def record_work(directory: Path) -> Path:
    """Let programs work on a mount below `directory`; return the access log of that.

    Raises:
        BenchmarkError: one of the commands failed.
    """
    source, mountpoint, log = directory / "source", directory / "mount", directory / "base.log"
    source.mkdir()
    mountpoint.mkdir()
    arguments = [str(source), str(mountpoint), "--name", "data", "--log", str(log)]
    processes.run([*_FUSEVOL, "mount", *arguments], timeout=_TIMEOUT_S)
    try:
        processes.run(["sh", "-c", _WORK, "sh", mountpoint], timeout=_TIMEOUT_S)
    finally:
        processes.run([*_FUSEVOL, "unmount", str(mountpoint)], timeout=_TIMEOUT_S)
    return log


def load(path: Path) -> list[AccessRecord]:
    """Return the operations in a log, without fusevol's own events."""
    records = [record for _number, _line, record in read(str(path), Skipped())]
    return [record for record in records if record.op not in EVENTS]


def scaled(base: list[AccessRecord], records: int) -> Iterator[bytes]:
    """Yield `records` lines: `base` over and over, each time somewhere else by somebody else."""
    base = [copy.copy(record) for record in base]
    times_us = [epoch_us(record.time) for record in base]
    paths = [(record.path, record.to, record.ino, record.pid) for record in base]
    span_us = times_us[-1] - times_us[0] + _PAUSE_US
    timestamps = Timestamps()
    seq = 0
    for turn in count():
        project = f"/project{turn * 7 % _PROJECTS:03d}"
        uid = _USERS[turn % len(_USERS)]
        container = _container(turn)
        for record, time_us, (path, to, ino, pid) in zip(base, times_us, paths, strict=True):
            seq += 1
            if seq > records:
                return
            record.seq = seq
            record.time = timestamps.of((time_us + turn * span_us) * 1000)
            record.path = project + path if path is not None else None
            record.to = project + to if to is not None else None
            record.ino = ino + turn * 100_000 if ino is not None else None
            record.pid = ((pid or 1) + turn * 61) % _MAX_PID
            record.uid = record.gid = uid
            record.container = container
            yield encode(record)


def _container(turn: int) -> str | None:
    """A third of the work is done on the host."""
    if turn % 3 == 0:
        return None
    return hashlib.sha256(b"%d" % (turn % _CONTAINERS)).hexdigest()


def write(path: Path, lines: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        block = []
        for line in lines:
            block.append(line)
            if len(block) == _BUFFERED_LINES:
                file.write(b"\n".join(block) + b"\n")
                block.clear()
        file.writelines(line + b"\n" for line in block)


def _outside(text: str) -> Path:
    path = Path(text).resolve()
    if path.is_relative_to(Path(__file__).parents[1]):
        raise argparse.ArgumentTypeError(f"{text} is in the repository; give a path elsewhere")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate_log", description=__doc__)
    parser.add_argument("records", type=int, metavar="RECORDS")
    parser.add_argument("file", type=_outside, metavar="FILE")
    parser.add_argument("--base", type=Path, metavar="LOG", help="a log to repeat; nothing is run")
    parser.add_argument("--keep-base", type=_outside, metavar="FILE", help="keep what was run")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (processes.BenchmarkError, subprocess.SubprocessError) as error:
        sys.exit(f"benchmarks.generate_log: {error}")
