"""`fusevol run`: a command in a container of its own, with volumes, without an engine."""

import os
import secrets
import sys
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from fusevol.cli.choices import OneOf
from fusevol.containers.cgroup import can_limit_swap
from fusevol.containers.state import Container, check_free, check_name
from fusevol.errors import (
    EXIT_NOT_RUN,
    FusevolError,
    NotFoundError,
    NotPermittedError,
    NotRunError,
    UsageError,
)
from fusevol.options.binding import Binding, check_places, parse_binding
from fusevol.record.container_ids import short_form
from fusevol.runtime.limits import Limits, parse_limits
from fusevol.runtime.oci import find_runtime
from fusevol.runtime.userns import parse_userns

if TYPE_CHECKING:
    from fusevol.images.image import ImageConfig
    from fusevol.runtime.volumes import ServedVolumes

_HOST_NAME_MAX: Final = 64
"""Linux's __NEW_UTS_LEN."""
_SECCOMP: Final = "seccomp="


class _Wishes(msgspec.Struct):
    """What the command line asks for, checked.

    Attributes:
        user, directory: None for what the image says.
        seccomp: profile in the form of config.json; None for no filter.
        users: how many users it has of its own; 0 for those of the host.
    """

    bindings: list[Binding]
    environment: tuple[str, ...]
    directory: str | None
    user: str | None
    host_name: str | None
    network: str
    interactive: bool
    terminal: bool
    limits: Limits
    seccomp: dict[str, Any] | None
    users: int
    remove: bool


class _Run(click.Command):
    """Exits as Docker does if fusevol itself fails, in whatever way."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.show()
            sys.exit(EXIT_NOT_RUN)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FusevolError as error:
            raise NotRunError(str(error)) from None
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            raise NotRunError(f"{where}{error.strerror or error}") from None


@click.command(cls=_Run)
@click.option("--image", metavar="oci:DIR[:TAG]", help="Image in a directory in OCI layout.")
@click.option(
    "--rootfs",
    type=click.Path(readable=False),
    metavar="DIR",
    help="Directory with a root file system. It is not changed.",
)
@click.option(
    "-v",
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME|PATH:/DST[:ro]",
    help="A volume of `fusevol serve`, NAME or NAME/SUBDIR, or a directory or file of the host, "
    "/PATH or ./PATH, which needs no daemon. /DST alone: a new volume; fusevol DELETES its data "
    "when the container exits. Can be repeated.",
)
@click.option("--name", help="The container's name.", show_default="generated")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it exits.")
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    help="Pass standard input to the command; otherwise it is empty.",
)
@click.option("-t", "--tty", "terminal", is_flag=True, help="Give the command a terminal.")
@click.option(
    "-e",
    "--env",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an environment variable. Can be repeated.",
)
@click.option("-w", "--workdir", metavar="DIR", help="Directory to start in.")
@click.option(
    "-u", "--user", metavar="USER[:GROUP]", help="Run as this user: names of the image, or numbers."
)
@click.option("--hostname", help="Host name.", show_default="first digits of the container id")
@click.option(
    "--network",
    type=OneOf(("none", "host")),
    default="none",
    show_default=True,
    help="none: only a loopback device. host: the host's network, without isolation.",
)
@click.option("-m", "--memory", metavar="SIZE", help="Memory limit, such as 512m.")
@click.option("--cpus", type=float, metavar="NUMBER", help="CPU limit in processors, such as 1.5.")
@click.option(
    "--pids-limit", type=int, metavar="NUMBER", help="Maximum number of processes and threads."
)
@click.option(
    "--userns",
    default="host",
    show_default=True,
    metavar="host|auto[:size=N]",
    help="auto: users of the container, root too, are users of the host that nobody else is, of "
    "/etc/subuid.",
)
@click.option(
    "--security-opt",
    "security",
    multiple=True,
    metavar="seccomp=FILE|unconfined",
    help="Filter system calls with this seccomp profile, or not at all.",
    show_default="the installed profile",
)
@click.option(
    "--runtime", metavar="NAME|PATH", help="OCI runtime.", show_default="crun, otherwise runc"
)
@click.argument("command", nargs=-1, metavar="[--] [COMMAND]...")
def run(
    image: str | None,
    rootfs: str | None,
    volumes: tuple[str, ...],
    name: str | None,
    remove: bool,
    interactive: bool,
    terminal: bool,
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    hostname: str | None,
    network: str,
    memory: str | None,
    cpus: float | None,
    pids_limit: int | None,
    userns: str,
    security: tuple[str, ...],
    runtime: str | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a new container and return its exit status.

    crun or runc creates the container. Its root file system comes from an image or a directory;
    changes to it are kept with the container (`fusevol commit` makes an image of them, `fusevol rm`
    DELETES them). Each operation on a volume is recorded with the container's id. The exit status
    is 128 + N after signal N, 127 if the command is not found, 126 if it cannot be executed, 125 if
    fusevol fails.

    \b
      fusevol run --rm --rootfs /srv/rootfs -v ./src:/src:ro -v data:/data -- make -C /src
      fusevol run --rm -it --image oci:images:debian -- bash
    """
    if (image is None) == (rootfs is None):
        raise UsageError("use either --image or --rootfs")
    if os.geteuid() != 0:
        raise NotPermittedError("fusevol run requires root, as it creates mounts and namespaces")
    if terminal and interactive and not os.isatty(0):
        raise UsageError("-i -t: standard input is not a terminal; leave one of the two out")
    if userns != "host" and network == "host":
        raise UsageError("--userns auto requires --network none, as /sys belongs to the network")
    _check_words(env, hostname, command)
    wishes = _Wishes(
        bindings=_bindings(volumes),
        environment=env,
        directory=_directory(workdir),
        user=user,
        host_name=hostname,
        network=network,
        interactive=interactive,
        terminal=terminal,
        limits=parse_limits(memory, pids_limit, cpus, can_limit_swap()),
        seccomp=_seccomp(security),
        users=parse_userns(userns),
        remove=remove,
    )
    sys.exit(_run(find_runtime(runtime), name, image, rootfs, wishes, command))


def _run(
    runtime: str, name: str | None, image: str | None, rootfs: str | None, wishes: _Wishes,
    command: tuple[str, ...],
) -> int:  # fmt: skip
    from fusevol.images import layers
    from fusevol.images.image import ImageConfig, open_image
    from fusevol.runtime.volumes import ServedVolumes, clean_up_abandoned

    container_id = secrets.token_hex(32)
    name = name or f"run-{container_id[:8]}"
    check_name(name)
    clean_up_abandoned()
    # Before images are unpacked, which takes time; it is checked again when the name is given.
    check_free(name)
    settings, digest = ImageConfig(), ""
    if image is not None:
        opened = open_image(image)
        settings, digest = opened.settings, opened.manifest_digest
        # For a commit, which may be called in another directory.
        image = f"oci:{opened.layout}:{opened.tag}".removesuffix(":")
        lowers = layers.unpack(opened)
    else:
        assert rootfs is not None
        lowers = [_rootfs(rootfs)]
    container = Container(
        id=container_id,
        name=name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        command=_command(settings.entrypoint, settings.cmd, command),
        lowers=lowers,
        image=image or "",
        manifest_digest=digest,
        bindings=wishes.bindings,
        remove_at_end=wishes.remove,
        runtime=runtime,
    )
    served = ServedVolumes(container)
    try:
        container.create(wishes.users)
    except OSError:
        container.remove()
        raise
    return _start(container, served, settings, wishes)


def _start(
    container: Container, served: "ServedVolumes", settings: "ImageConfig", wishes: _Wishes
) -> int:
    from fusevol.runtime.bundle import Plan
    from fusevol.runtime.monitor import MonitorKilledError, run_container
    from fusevol.runtime.terminal import Terminal
    from fusevol.runtime.volumes import clean_up, console_path

    plan = Plan(
        command=container.command,
        environment=[*(settings.env or []), *wishes.environment],
        directory=wishes.directory or _directory(settings.working_dir) or "/",
        user=settings.user or "" if wishes.user is None else wishes.user,
        host_name=wishes.host_name or short_form(container.id),
        lowers=container.lowers,
        upper=container.upper,
        work=container.work,
        merged=container.merged,
        own_network=wishes.network == "none",
        interactive=wishes.interactive,
        terminal=wishes.terminal,
        limits=wishes.limits,
        ids=container.ids,
        seccomp=wishes.seccomp,
    )
    shown = (
        closing(Terminal(console_path(container), wishes.interactive))
        if wishes.terminal
        else nullcontext()
    )
    try:
        with shown as terminal:
            return run_container(container, plan, served, terminal)
    except MonitorKilledError as error:
        clean_up(container)
        if not error.signal:
            raise FusevolError(str(error)) from None
        # It never began.
        container.remove()
        return 128 + error.signal


def _check_words(env: tuple[str, ...], hostname: str | None, command: tuple[str, ...]) -> None:
    for word in (*env, *command):
        if not word.isprintable() and word != word.encode(errors="replace").decode():
            raise UsageError(f"{word!r} is not UTF-8, and OCI runtimes accept nothing else")
    for word in env:
        if "=" not in word[1:]:
            raise UsageError(f"invalid -e {word}: expected NAME=VALUE")
    if hostname is not None and not 0 < len(os.fsencode(hostname)) <= _HOST_NAME_MAX:
        raise UsageError(f"invalid --hostname {hostname}: expected 1 to {_HOST_NAME_MAX} bytes")


def _bindings(words: tuple[str, ...]) -> list[Binding]:
    bindings = [parse_binding(word) for word in words]
    check_places(bindings)
    for binding in bindings:
        place = binding.destination
        if place.split("/")[1] in ("proc", "sys"):
            raise UsageError(f"a volume cannot be mounted at {place}, which belongs to the kernel")
        if binding.volume.startswith("/") and not os.path.exists(binding.volume):
            raise NotFoundError(f"source {binding.volume} does not exist; create it first")
    return bindings


def _directory(word: str | None) -> str | None:
    """Return the directory to start in; None for the default."""
    if not word:
        return None
    directory = os.path.normpath("/" + word.lstrip("/"))
    if directory.split("/")[1] == "proc":
        # Its links to descriptors have led out of containers (CVE-2024-21626 of runc).
        raise UsageError(f"a command cannot start in {directory}, which belongs to the kernel")
    return directory


def _seccomp(words: tuple[str, ...]) -> dict[str, Any] | None:
    from fusevol.runtime.seccomp import UNCONFINED, installed_profile, load_profile

    path = installed_profile()
    for word in words:
        if not word.startswith(_SECCOMP) or word == _SECCOMP:
            raise UsageError(
                f"invalid --security-opt {word}: expected seccomp=FILE or seccomp=unconfined"
            )
        path = word.removeprefix(_SECCOMP)
    return None if path in (None, UNCONFINED) else load_profile(path)


def _rootfs(path: str) -> str:
    path = os.path.realpath(path)
    if not os.path.isdir(path):
        raise NotFoundError(f"--rootfs {path} is not a directory")
    return path


def _command(
    entrypoint: list[str] | None, default: list[str] | None, command: tuple[str, ...]
) -> list[str]:
    words = [*(entrypoint or []), *(command or default or [])]
    if not words or not words[0]:
        raise UsageError("no command to run, and the image has none; add -- COMMAND")
    return words
