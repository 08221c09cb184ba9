"""Making a container by a runtime, and waiting for its end. Runs in the monitor."""

import os
import select
import signal
from typing import Final

import msgspec

from fusevol.containers import cgroup
from fusevol.containers.state import Container
from fusevol.errors import FusevolError
from fusevol.linux.process import Process, adopt_orphans
from fusevol.runtime import hook
from fusevol.runtime.bundle import Hook, Plan, config
from fusevol.runtime.oci import Runtime, RuntimeFailedError
from fusevol.runtime.root import check_places, mount_overlay
from fusevol.runtime.user import find_user
from fusevol.runtime.userns import mount_mapped_overlay
from fusevol.runtime.volumes import ServedVolumes, run_directory, states_directory

_VOLUMES: Final = "volumes"
_CONFIG: Final = "config.json"


def run(
    container: Container, plan: Plan, served: ServedVolumes, console: str | None, watched: int
) -> int:
    """Make a container, wait for its end, and return its command's exit status.

    Args:
        container: as it is kept on disk.
        plan: what it is made of.
        served: its volumes.
        console: socket that gets its terminal.
        watched: pipe that closes when nobody waits for it any more.

    Raises:
        RuntimeFailedError: the runtime could not make it, and has said why.
        FusevolError: it could not be made.
    """
    directory = run_directory(container)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    volumes = os.path.join(directory, _VOLUMES)
    mounted = served.obtain()
    # Who has only the rights of a user namespace cannot copy mounts of the host.
    stage = "createRuntime" if plan.ids else "createContainer"
    called = hook.write_wanted(volumes, mounted, stage) if mounted else None
    adopt_orphans()
    runtime = Runtime(container.runtime, container.id, states_directory(), directory)
    try:
        pid = runtime.create(
            container.directory, lambda: _prepare(container, plan, called), console,
            plan.interactive,
        )  # fmt: skip
        return _run(container, plan, runtime, pid, watched)
    except RuntimeFailedError:
        if why := hook.error_of(volumes):
            raise FusevolError(why) from None
        raise
    finally:
        cgroup.kill(container.id)
        runtime.delete()


def _prepare(container: Container, plan: Plan, called: Hook | None) -> None:
    """Put the root file system together, and write the bundle's configuration."""
    if plan.ids is None:
        mount_overlay(plan.lowers, plan.upper, plan.work, plan.merged)
    else:
        mount_mapped_overlay(plan.lowers, plan.upper, plan.work, plan.merged, plan.ids)
    root_fd = os.open(plan.merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_places(root_fd)
        user = find_user(root_fd, plan.user)
    finally:
        os.close(root_fd)
    content = msgspec.json.encode(config(plan, container.id, user, called))
    with open(os.path.join(container.directory, _CONFIG), "wb") as file:
        file.write(content)


def _run(container: Container, plan: Plan, runtime: Runtime, pid: int, watched: int) -> int:
    """Let the command of a created container begin, and wait for it."""
    pidfd = os.pidfd_open(pid)
    try:
        container.init = Process.of(pid)
        _check_control_group(container, plan, pid)
        container.save()
        runtime.start()
        _await(pidfd, watched)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _check_control_group(container: Container, plan: Plan, pid: int) -> None:
    """Make sure that the container can be identified, and is limited as it should be.

    Not every runtime says so if the host's control groups do not allow it.
    """
    with open(f"/proc/{pid}/cgroup") as file:
        if container.id not in file.read():
            raise FusevolError(
                "the container has no control group of its own, and fusevol identifies containers "
                "by them; mount -t cgroup2 none /sys/fs/cgroup"
            )
    if cgroup.lets_open_devices(container.id):
        raise FusevolError(
            "the container could open devices of the host; mount -t cgroup -o devices none "
            "/sys/fs/cgroup/devices"
        )
    for option, files in plan.limits.files().items():
        if all(cgroup.setting(container.id, name) != text for name, text in files):
            raise FusevolError(f"{option}: the control groups of this host do not allow this limit")


def _await(pidfd: int, watched: int) -> None:
    """Wait for the end of the container, or of the process that waits for it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(watched, 0)
    poll.poll()
