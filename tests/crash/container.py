"""A container of Docker writes to a volume until it is told to stop, and checks each step."""

import time
from pathlib import Path
from typing import Final

from tests.crash.workload import Figures, Place, main
from tests.engines.docker import IMAGE, docker_daemon
from tests.engines.rootfs import make_rootfs

SCRIPT: Final = """\
n=0
while [ ! -e /data/stop ]; do
    n=$((n + 1))
    echo "$n" >>/data/lines || exit 11
    mkdir "/data/d$n" || exit 12
    echo "$n" >"/data/d$n/f" || exit 13
    mv "/data/d$n" /data/e || exit 14
    [ "$(cat /data/e/f)" = "$n" ] || exit 15
    rm /data/e/f || exit 16
    rmdir /data/e || exit 17
done
"""
_POLL_S: Final = 0.1


def container(place: Place) -> Figures:
    """Run the script in a container until the time is over.

    Raises:
        AssertionError: a step failed, or what the container wrote is not there.
    """
    with docker_daemon(make_rootfs(place.scratch / "rootfs")) as docker:
        name = docker.run("--detach", f"--volume={place.directory}:/data", IMAGE,
                          "sh", "-c", SCRIPT)  # fmt: skip
        while place.goes_on():
            time.sleep(_POLL_S)
        (place.directory / "stop").touch()
        status = docker.cli("wait", name)
        assert status == "0", f"step {status} failed: {docker.cli('logs', name)}"
    return {"rounds": count_rounds(place.directory)}


def count_rounds(directory: Path) -> int:
    """Return how many rounds the container made.

    Raises:
        AssertionError: what it left is not what that many rounds leave.
    """
    lines = (directory / "lines").read_text().splitlines()
    assert lines == [str(number) for number in range(1, len(lines) + 1)], f"lines: {lines[-20:]}"
    assert not (directory / "e").exists()
    return len(lines)


if __name__ == "__main__":
    main(container)
