"""fio writes what it can verify: through the page cache, past it, and through memory maps."""

from tests.crash.workload import Figures, Place, main
from tests.engines.machine import command

_ENGINES = {
    "buffered": ("--ioengine=psync",),
    "direct": ("--ioengine=psync", "--direct=1"),
    "mmap": ("--ioengine=mmap",),
}
_JOB = (
    "--rw=randrw", "--size=2M", "--bsrange=4k-64k", "--verify=crc32c", "--verify_fatal=1",
    "--fallocate=none", "--verify_state_save=0", "--fsync=32", "--end_fsync=1",
)  # fmt: skip


def fio(place: Place) -> Figures:
    """Run fio with one engine after the other.

    Raises:
        AssertionError: fio met an error, or read what it has not written.
    """
    rounds = 0
    while place.goes_on():
        for name, options in _ENGINES.items():
            command("fio", f"--name={name}", f"--directory={place.directory}",
                    f"--randseed={rounds}", *options, *_JOB, seconds=300)  # fmt: skip
        rounds += 1
    return {"rounds": rounds}


if __name__ == "__main__":
    main(fio)
