"""What this host offers to fusevol, what is missing, and what that costs.

Where it does no harm things are tried out rather than concluded from versions: /dev/fuse is opened,
a file system is mounted on an empty directory for a moment, a mount is copied. Nothing is changed.
"""

import enum
import os
import platform
import re
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from fusevol.binding.podman_hooks import HookFile, hook_directories, hook_files
from fusevol.errors import FusevolError
from fusevol.linux import credentials
from fusevol.linux.container_id import container_id
from fusevol.linux.libfuse import loaded_libfuse
from fusevol.linux.mountinfo import mounts
from fusevol.linux.mounts import clone_tree
from fusevol.mounts import mounting
from fusevol.options.config import NO_LOG, MountConfig
from fusevol.protocol.init import Flag, offered, protocol
from fusevol.record.container_ids import short_form
from fusevol.runtime.oci import find_runtime
from fusevol.runtime.seccomp import INSTALLED, installed_profile, load_profile

_SYSCTLS: Final = "/proc/sys/fs/fuse"
_IO_URING_DISABLED: Final = "/proc/sys/kernel/io_uring_disabled"
_FUSE_CONF: Final = "/etc/fuse.conf"
_HELPER_DIRECTORIES: Final = ("/sbin", "/usr/sbin", "/usr/local/sbin")
_ENOUGH_DESCRIPTORS: Final = 32768
"""Hard limit from which on as many host objects stay open as fusevol wants to keep."""

_FIRST_NAMESPACES: Final = {"pid": 0xEFFFFFFC, "user": 0xEFFFFFFD, "cgroup": 0xEFFFFFFB}
"""Inode numbers of the namespaces the kernel boots with (linux/proc_ns.h)."""


class CheckState(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """fusevol works, but something is lost."""
    MISSING = "missing"
    """fusevol cannot serve here."""


class CheckResult(msgspec.Struct, omit_defaults=True):
    """The result of one check.

    Attributes:
        found: what there is.
        costs: what does not work because of it.
        advice: what to do about it.
    """

    check: str
    state: CheckState
    found: str
    costs: str = ""
    advice: str = ""


def _ok(check: str, found: str) -> CheckResult:
    return CheckResult(check, CheckState.OK, found)


def _warning(check: str, found: str, costs: str, advice: str) -> CheckResult:
    return CheckResult(check, CheckState.WARNING, found, costs, advice)


def _missing(check: str, found: str, costs: str, advice: str) -> CheckResult:
    return CheckResult(check, CheckState.MISSING, found, costs, advice)


def findings() -> Iterator[CheckResult]:
    """Yield what every check found, the most important first."""
    root = os.geteuid() == 0
    yield from check_mounting()
    if root:
        yield check_copying()
    yield from check_libraries()
    yield check_capabilities(root)
    yield check_timeouts()
    yield check_descriptors()
    yield check_io_uring()
    yield check_fusermount(root)
    yield check_fuse_conf(root)
    yield from check_proc()
    yield check_cgroups()
    yield check_helper()
    if shutil.which("podman"):
        yield from check_hooks(hook_files())
    if root:
        yield check_runtime()
        yield check_seccomp()
    yield check_container()


# --- FUSE itself ---


def check_mounting() -> Iterator[CheckResult]:
    """Open the device, mount for a moment, and look at what the kernel offers."""
    try:
        os.close(mounting.open_device())
    except FusevolError as error:
        problem, _, advice = str(error).partition("; ")
        yield _missing("device", problem, "nothing can be mounted", advice)
        return
    yield _ok("device", f"{mounting.FUSE_DEVICE} can be opened")
    try:
        request = _init_of_a_trial_mount()
    except (FusevolError, OSError) as error:
        yield _missing(
            "mount", str(error), "nothing can be mounted",
            "mount as root with CAP_SYS_ADMIN, or install fuse3; in a container, give it "
            "/dev/fuse and CAP_SYS_ADMIN, and an AppArmor or SELinux profile that allows mount",
        )  # fmt: skip
        return
    yield _ok("mount", "a FUSE file system can be mounted")
    yield from check_kernel(platform.release(), protocol(request), offered(request))


def _init_of_a_trial_mount() -> bytes:
    """Mount on an empty directory of our own and return the kernel's INIT request."""
    directory = tempfile.mkdtemp(prefix="fusevol-doctor-")
    try:
        config = MountConfig(
            source="fusevol-doctor", mountpoint=directory, name="", log=NO_LOG, allow_other=False
        )
        fd = mounting.mount(config, single_file=False)
        try:
            return mounting.read_init(fd)
        finally:
            mounting.unmount(directory, lazily=True)
            os.close(fd)
    finally:
        os.rmdir(directory)


def check_kernel(release: str, version: tuple[int, int], flags: Flag) -> Iterator[CheckResult]:
    """Judge what the kernel offers in its INIT request."""
    yield _ok("kernel", f"Linux {release}, FUSE protocol {version[0]}.{version[1]}")
    if flags & Flag.DIRECT_IO_ALLOW_MMAP:
        yield _ok("shared maps", "files can be mapped shared at level all")
    else:
        yield _warning(
            "shared maps", "not at level all (requires Linux 6.6)",
            "at level all, mmap with MAP_SHARED fails with ENODEV: SQLite in WAL mode, some "
            "databases and package managers",
            "use --record data for such volumes, or a newer kernel",
        )  # fmt: skip
    if not flags & Flag.HANDLE_KILLPRIV_V2:
        yield _warning(
            "set-ID bits", "the kernel does not leave them to file systems (requires Linux 5.11)",
            "the kernel asks for file capabilities before each write, which slows writes down and "
            "shows in the log as getxattr",
            "use a newer kernel",
        )  # fmt: skip
    if not flags & Flag.NO_EXPORT_SUPPORT:
        yield _warning(
            "file handles", "clients can open them (forbidding it requires Linux 6.9)",
            "a container with CAP_DAC_READ_SEARCH can open files of the volume by guessed handles",
            "do not give containers this capability, or use a newer kernel",
        )  # fmt: skip
    if flags & Flag.HAS_RESEND:
        yield _ok("takeover", "the kernel resends the requests of a worker that dies")
    else:
        yield _warning(
            "takeover", "the kernel does not resend requests (requires Linux 6.9)",
            "when a worker dies, its running requests fail with EIO, though they may have taken "
            "effect; everything else continues with the next worker",
            "use a newer kernel",
        )  # fmt: skip
    offers = "offered" if flags & Flag.PASSTHROUGH else "not offered (requires Linux 6.9)"
    yield _ok("kernel, later", f"passthrough {offers}; fusevol does not use it yet")


def check_copying() -> CheckResult:
    """Copy a mount, attached nowhere, and drop it again."""
    fd = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(clone_tree(fd))
    except OSError as error:
        return _warning(
            "mount copies", f"not possible: {error.strerror} (requires Linux 5.12, CAP_SYS_ADMIN)",
            "later mounts below a source show in the volume, and a volume cannot be mounted over "
            "its own source",
            "use a newer kernel; keep mount points out of sources",
        )  # fmt: skip
    finally:
        os.close(fd)
    return _ok("mount copies", "sources are served from a private copy of their mounts")


def check_libraries() -> Iterator[CheckResult]:
    """Load what serves, in this process."""
    try:
        from importlib.metadata import version

        import fusevol.fuse.session  # noqa: F401
    except ImportError as error:
        yield _missing(
            "pyfuse3", f"cannot be loaded: {error}", "nothing can be served",
            "install fusevol's requirements, and libfuse3 (Debian: libfuse3-3)",
        )  # fmt: skip
        return
    libfuse = loaded_libfuse()
    where = f"libfuse {libfuse[1]} ({libfuse[0]})" if libfuse else "libfuse built in"
    yield _ok("libraries", f"pyfuse3 {version('pyfuse3')}, {where}")


# --- rights and limits ---

_CAPABILITIES: Final = (
    (credentials.CAP_CHOWN, "CAP_CHOWN"),
    (credentials.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (credentials.CAP_FSETID, "CAP_FSETID"),
    (credentials.CAP_SETGID, "CAP_SETGID"),
    (credentials.CAP_SETUID, "CAP_SETUID"),
    (credentials.CAP_SETPCAP, "CAP_SETPCAP"),
)
"""What `fusevol.fuse.session` needs to act for others; CAP_SYS_ADMIN shows in the trial mount."""


def check_capabilities(root: bool) -> CheckResult:
    """See whether operations can be done on behalf of others."""
    if not root:
        return _ok(
            "capabilities",
            "not root: serves what you can read yourself; files created in a volume are yours",
        )
    lacking = [name for number, name in _CAPABILITIES if not credentials.has_capability(number)]
    if not lacking:
        return _ok("capabilities", "everything needed to act for other users")
    return _warning(
        "capabilities", f"missing {', '.join(lacking)}",
        "all operations are done as root: new files belong to root, whoever creates them",
        "run as root with these capabilities (systemd: CapabilityBoundingSet=; Docker: --cap-add)",
    )  # fmt: skip


def check_timeouts(directory: str = _SYSCTLS) -> CheckResult:
    """Look for request timeouts, which end a mount for good when one operation is slow."""
    set_to = []
    for name in ("default_request_timeout", "max_request_timeout"):
        try:
            with open(os.path.join(directory, name), encoding="ascii") as file:
                value = file.read().strip()
        except OSError:
            continue
        if value != "0":
            set_to.append(f"fs.fuse.{name} = {value}")
    if not set_to:
        return _ok("timeouts", "the kernel sets no time limit for requests")
    return _warning(
        "timeouts", ", ".join(set_to),
        "if one operation takes longer (a slow disk, a hanging NFS server), the kernel ends the "
        "whole mount, for all clients",
        "sysctl -w fs.fuse.default_request_timeout=0 fs.fuse.max_request_timeout=0; to limit "
        "single operations, use -o deadline=SECONDS",
    )  # fmt: skip


def check_descriptors(hard: int | None = None) -> CheckResult:
    """Look at the limit of open files; the worker raises the soft one by itself."""
    if hard is None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= _ENOUGH_DESCRIPTORS:
        return _ok("descriptors", f"hard limit {hard}")
    return _warning(
        "descriptors", f"hard limit {hard}",
        f"clients can have at most about {hard * 3 // 4} files of a volume open at once, and fewer "
        f"host files stay open in the cache",
        "raise the hard limit of open files (ulimit -Hn, LimitNOFILE=, limits.conf)",
    )  # fmt: skip


def check_io_uring(switch: str = _IO_URING_DISABLED) -> CheckResult:
    """See whether programs can use io_uring, which is wrong for direct I/O without an offset."""
    try:
        with open(switch, encoding="ascii") as file:
            disabled = file.read().strip()
    except OSError:
        disabled = "0"
    if disabled == "2":
        return _ok("io_uring", "no program can use it")
    return _warning(
        "io_uring", "programs can use it",
        "if a program reads or writes through io_uring at the current position (offset -1) of a "
        "file that it opened with open(2), the kernel does not advance the position: data is "
        "overwritten, or read again. Explicit offsets are safe, and so are files opened through "
        "io_uring (as Node.js does)",
        "make such programs use explicit offsets, or no io_uring; or sysctl -w "
        "kernel.io_uring_disabled=2",
    )  # fmt: skip


# --- mounting without root ---


def check_fusermount(root: bool) -> CheckResult:
    """Look for the set-user-ID helper."""
    path = shutil.which("fusermount3")
    problem = ""
    if path is None:
        problem = "not installed"
    else:
        status = os.stat(path)
        if not (status.st_mode & stat.S_ISUID and status.st_uid == 0):
            problem = f"{path} is not set-user-ID root"
    if not problem:
        return _ok("fusermount3", f"{path}, set-user-ID root")
    return CheckResult(
        "fusermount3", CheckState.WARNING if root else CheckState.MISSING, problem,
        "only root can mount", "install the package fuse3",
    )  # fmt: skip


def check_fuse_conf(root: bool, path: str = _FUSE_CONF) -> CheckResult:
    """See whether users may let others use their mounts."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            allowed = re.search(r"^\s*user_allow_other\s*$", file.read(), re.MULTILINE) is not None
    except OSError:
        allowed = False
    if allowed:
        return _ok("user_allow_other", f"set in {path}")
    if root:
        return _ok("user_allow_other", f"not set in {path}; root does not need it")
    return _warning(
        "user_allow_other", f"not set in {path}",
        "-o allow_other is refused: only you can use your mounts, no other user and not root",
        f"as root, add the line user_allow_other to {path}",
    )  # fmt: skip


# --- callers and containers ---


def check_proc() -> Iterator[CheckResult]:
    """See whether callers can be looked up."""
    proc = [mount for mount in mounts() if mount.mountpoint == "/proc" and mount.fstype == "proc"]
    if not proc:
        yield _missing(
            "/proc", "not mounted",
            "files cannot be opened by descriptor, and callers cannot be named",
            "mount -t proc proc /proc",
        )  # fmt: skip
        return
    hidden = re.search(r"hidepid=(?!0|off)(\w+)", proc[-1].super_options)
    if hidden and not os.path.exists("/proc/1/comm"):
        yield _warning(
            "/proc", hidden[0], "records of other users' processes lack comm and container",
            "serve as root, or mount /proc with hidepid=0",
        )  # fmt: skip
    elif not _in_first_namespace("pid"):
        yield _warning(
            "/proc", "a pid namespace of its own",
            "callers outside it, such as containers beside this one, have pid 0 and neither comm "
            "nor container in the records",
            "run fusevol on the host, or in the host's pid namespace (Docker: --pid=host)",
        )  # fmt: skip
    else:
        yield _ok("/proc", "callers can be looked up")


def check_cgroups() -> CheckResult:
    """See whether containers can be identified."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        lines = []
    v2 = any(line.startswith("0::") for line in lines)
    v1 = any(not line.startswith("0::") for line in lines)
    layout = {(True, False): "v2", (False, True): "v1", (True, True): "v1 and v2 (hybrid)"}.get(
        (v2, v1)
    )
    if layout is None:
        return _warning(
            "cgroups", "none", "records do not name containers", "mount the cgroup file system"
        )
    if not _in_first_namespace("cgroup"):
        return _warning(
            "cgroups", f"{layout}, in a cgroup namespace of its own",
            "containers outside it may not be recognized",
            "run fusevol on the host, or in the host's cgroup namespace (Docker: --cgroupns=host)",
        )  # fmt: skip
    return _ok("cgroups", layout)


def _in_first_namespace(kind: str) -> bool:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino == _FIRST_NAMESPACES[kind]
    except OSError:
        return True


# --- surroundings ---


def check_helper(directories: tuple[str, ...] = _HELPER_DIRECTORIES) -> CheckResult:
    """Look for the helper that mount(8) calls."""
    for directory in directories:
        path = os.path.join(directory, "mount.fusevol")
        if os.access(path, os.X_OK):
            return _ok("mount helper", path)
    program = shutil.which("mount.fusevol") or "$(command -v mount.fusevol)"
    return _warning(
        "mount helper", "/sbin/mount.fusevol does not exist",
        "`mount -t fusevol` and lines of that type in /etc/fstab do not work",
        f"ln -s {program} /sbin/mount.fusevol",
    )  # fmt: skip


def check_hooks(files: Sequence[HookFile]) -> Iterator[CheckResult]:
    """See whether Podman finds the hook, and the hook its program; nothing where there is none."""
    costs = "containers that request volumes by annotation start without them, with no error"
    for file in files:
        if not file.is_read:
            directory = hook_directories()[0]
            yield _warning(
                "hook", f"Podman does not read {file.path}", costs,
                f"mkdir -p {directory} && mv {file.path} {directory}/",
            )  # fmt: skip
        elif not os.access(file.program, os.X_OK):
            yield _warning(
                "hook", f"{file.path} calls {file.program}, which cannot be executed",
                "containers that request volumes by annotation cannot be created",
                f"fusevol hook --config --allow NAME > {file.path}",
            )  # fmt: skip
        else:
            yield _ok("hook", f"Podman reads {file.path}")


def check_runtime() -> CheckResult:
    """Look for the program that makes the containers of `fusevol run`."""
    try:
        return _ok("OCI runtime", find_runtime())
    except FusevolError as error:
        problem, _, advice = str(error).partition("; ")
        return _warning("OCI runtime", problem, "`fusevol run` does not work", advice)


def check_seccomp() -> CheckResult:
    """Look for the filter of system calls that containers of `fusevol run` get."""
    path = installed_profile()
    costs = "containers of `fusevol run` may make any system call"
    if path is None:
        return _warning(
            "seccomp", f"no profile at {' or '.join(INSTALLED)}", costs,
            "apt-get install golang-github-containers-common",
        )  # fmt: skip
    try:
        load_profile(path)
    except FusevolError as error:
        return _warning(
            "seccomp", str(error), "`fusevol run` takes --security-opt seccomp=... only",
            "repair or remove that file",
        )  # fmt: skip
    return _ok("seccomp", path)


def check_container() -> CheckResult:
    """See whether fusevol itself is in a container."""
    name = _own_container()
    if name is None:
        return _ok("container", "not in one")
    return _warning(
        "container", f"in one ({name})",
        "the host and other containers see these mounts only through a bind mount with shared "
        "propagation",
        "run fusevol on the host, or give the container a volume with bind propagation rshared",
    )  # fmt: skip


def _own_container() -> str | None:
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            found = container_id(file.read())
    except OSError:
        found = None
    if found is not None:
        return short_form(found)
    for path, engine in (("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")):
        if os.path.exists(path):
            return engine
    return None if _in_first_namespace("user") else "user namespace"
