"""`fusevol run`: a command in a container of its own, with volumes, without an engine."""

import os
import secrets
import sys
from datetime import UTC, datetime
from typing import Final

import click

from fusevol.cli.choices import OneOf
from fusevol.containers.state import Container, check_free, check_name
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.options.binding import Binding, check_places, parse_binding
from fusevol.record.container_ids import short_form
from fusevol.runtime.program import execute_from_read_only_mount

_HOST_NAME_MAX: Final = 64
"""Linux's __NEW_UTS_LEN."""


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--image", metavar="oci:DIR[:TAG]", help="Image in a directory in OCI layout.")
@click.option(
    "--rootfs",
    type=click.Path(readable=False),
    metavar="DIR",
    help="Directory that holds a root file system. It is not changed.",
)
@click.option(
    "-v",
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME|PATH:/DST[:ro]",
    help="A volume of `fusevol serve`, NAME or NAME/SUBDIR, or a directory or file of the host, "
    "/PATH or ./PATH, which needs no daemon. /DST alone: a new volume that goes with the "
    "container. Can be repeated.",
)
@click.option("--name", help="The container's name.", show_default="made up")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Can be repeated.")
@click.option("-w", "--workdir", metavar="DIR", help="Directory to start in.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Names of the image, or numbers.")
@click.option("--hostname", help="Host name.", show_default="begin of the id")
@click.option(
    "--network",
    type=OneOf(("none", "host")),
    default="none",
    show_default=True,
    help="none: a loopback device only. host: the host's network, which is no protection from it.",
)
@click.argument("command", nargs=-1, metavar="[--] [COMMAND]...")
def run(
    image: str | None,
    rootfs: str | None,
    volumes: tuple[str, ...],
    name: str | None,
    remove: bool,
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    hostname: str | None,
    network: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a new container and return its exit status.

    The root file system comes from an image or a directory; what is changed in it is kept with the
    container (`fusevol commit` makes an image of it, `fusevol rm` removes it). Each operation on a
    volume is recorded with the container's id. 128 + N is the status after signal N, 127 if the
    command is not found, 126 if it cannot be executed.

    \b
      fusevol run --rm --rootfs /srv/rootfs -v ./src:/src:ro -v data:/data -- make -C /src
    """
    if (image is None) == (rootfs is None):
        raise UsageError("a container is made of one thing: give --image or --rootfs")
    if os.geteuid() != 0:
        raise NotPermittedError("fusevol run takes root; it makes mounts and namespaces")
    bindings = _bindings(volumes)
    _check_words(env, hostname)
    execute_from_read_only_mount()
    container_id = secrets.token_hex(32)
    name = name or f"run-{container_id[:8]}"
    check_name(name)
    sys.exit(
        _run(
            container_id, name, image, rootfs, bindings, remove, env, workdir, user,
            hostname or short_form(container_id), network, command,
        )
    )  # fmt: skip


def _run(
    container_id: str, name: str, image: str | None, rootfs: str | None, bindings: list[Binding],
    remove: bool, env: tuple[str, ...], workdir: str | None, user: str | None, hostname: str,
    network: str, command: tuple[str, ...],
) -> int:  # fmt: skip
    from fusevol.images import layers
    from fusevol.images.image import ImageConfig, open_image
    from fusevol.runtime.init import Plan
    from fusevol.runtime.monitor import MonitorKilledError, run_container
    from fusevol.runtime.volumes import ServedVolumes, clean_up, clean_up_abandoned

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
    words = _command(settings.entrypoint, settings.cmd, command)
    container = Container(
        id=container_id,
        name=name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        command=words,
        lowers=lowers,
        image=image or "",
        manifest_digest=digest,
        bindings=bindings,
        remove_at_end=remove,
    )
    served = ServedVolumes(container)
    try:
        container.create()
    except OSError:
        container.remove()
        raise
    plan = Plan(
        command=words,
        environment=[*(settings.env or []), *env],
        directory="/" + (workdir or settings.working_dir or "/").strip("/"),
        user=settings.user or "" if user is None else user,
        host_name=hostname,
        lowers=lowers,
        upper=container.upper,
        work=container.work,
        merged=container.merged,
        own_network=network == "none",
    )
    try:
        status = run_container(container, plan, served.obtain, served.release)
    except MonitorKilledError as error:
        clean_up(container)
        if not error.signal:
            raise FusevolError(str(error)) from None
        # It never began.
        container.remove()
        status = 128 + error.signal
    return status


def _check_words(env: tuple[str, ...], hostname: str | None) -> None:
    for word in env:
        if "=" not in word[1:]:
            raise UsageError(f"-e {word}: use NAME=VALUE")
    if hostname is not None and not 0 < len(os.fsencode(hostname)) <= _HOST_NAME_MAX:
        raise UsageError(f"--hostname {hostname}: use 1 to {_HOST_NAME_MAX} bytes")


def _bindings(words: tuple[str, ...]) -> list[Binding]:
    bindings = [parse_binding(word) for word in words]
    check_places(bindings)
    for binding in bindings:
        place = binding.destination
        if place.split("/")[1] in ("proc", "sys"):
            raise UsageError(f"a volume cannot appear at {place}, which is the kernel's")
        if binding.volume.startswith("/") and not os.path.exists(binding.volume):
            raise NotFoundError(f"source {binding.volume} does not exist; create it first")
    return bindings


def _rootfs(path: str) -> str:
    path = os.path.realpath(path)
    if not os.path.isdir(path):
        raise NotFoundError(f"--rootfs {path} is no directory")
    return path


def _command(
    entrypoint: list[str] | None, default: list[str] | None, command: tuple[str, ...]
) -> list[str]:
    words = [*(entrypoint or []), *(command or default or [])]
    if not words or not words[0]:
        raise UsageError("no command to run, and the image names none; add -- COMMAND")
    return words
