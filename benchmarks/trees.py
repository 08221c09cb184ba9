"""Makes the files that workloads work on: always the same ones."""

import random
from pathlib import Path
from typing import Final

_SEED: Final = 20


def make_tree(top: Path, files: int, *, largest: int = 8192, per_directory: int = 50) -> None:
    """Makes files of 0.5 to 8 KiB (or other sizes) in two levels of directories below `top`."""
    chance = random.Random(_SEED)
    text = chance.randbytes(largest * 2).hex().encode()
    for number in range(files):
        directory = top / f"group{number // (per_directory * 10)}" / f"d{number // per_directory}"
        if number % per_directory == 0:
            directory.mkdir(parents=True, exist_ok=True)
        size = chance.randint(min(512, largest), largest)
        start = chance.randrange(largest)
        (directory / f"file{number}.txt").write_bytes(text[start : start + size])


def make_empty_files(top: Path, files: int, *, per_directory: int = 1000) -> None:
    """Makes empty files in one level of directories below `top`."""
    for number in range(files):
        directory = top / f"d{number // per_directory}"
        if number % per_directory == 0:
            directory.mkdir()
        (directory / f"file{number}").touch()
