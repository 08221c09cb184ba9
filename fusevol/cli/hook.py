"""`fusevol hook` and `fusevol cdi`: volumes for engines without a plugin."""

import json
import sys

import click

from fusevol.errors import UsageError


@click.command()
@click.argument("volumes", nargs=-1, metavar="[NAME|PATH:/DST[:ro]]...")
@click.option(
    "--config", "as_config", is_flag=True,
    help="Print the hook configuration for Podman, CRI-O and Buildah.",
)  # fmt: skip
@click.option(
    "--allow", "allowed", multiple=True, metavar="NAME",
    help="A volume, or a pattern such as 'web-*', that annotations may name. Images can carry "
    "annotations too: allow only volumes that any image may use. Can be repeated.",
)  # fmt: skip
def hook(volumes: tuple[str, ...], as_config: bool, allowed: tuple[str, ...]) -> None:
    """Bind volumes into a new container (called by OCI runtimes).

    As a createContainer or createRuntime hook, it reads the state of the container from standard
    input and binds the volumes given as arguments. Without arguments it binds those in the
    container's annotation io.fusevol.mounts that --allow names. `fusevol serve` must be running.

    \b
      mkdir -p /usr/share/containers/oci/hooks.d && cd /usr/share/containers/oci/hooks.d
      fusevol hook --config --allow data --allow logs > fusevol.json
      podman run --annotation io.fusevol.mounts=data:/data,logs:/var/log/app:ro ...

    Podman silently ignores hooks in any other directory; `fusevol doctor` checks that.
    """
    if as_config:
        if volumes:
            raise UsageError("--config takes no volumes; annotations name them")
        from fusevol.plugin.specs import hooks_d

        if not allowed:
            raise UsageError(
                "--config requires --allow NAME: the volumes that annotations may name"
            )
        click.echo(json.dumps(hooks_d(allowed), indent=2))
        return
    from fusevol.binding.creating import STATE_MAX_BYTES, read_state
    from fusevol.plugin.hook import bind_volumes, wanted

    if sys.stdin.isatty():
        raise UsageError("`fusevol hook` is run by OCI runtimes; see fusevol hook --help")
    state = read_state(sys.stdin.buffer.read(STATE_MAX_BYTES + 1))
    bindings = wanted(state, volumes, allowed)
    if bindings:
        bind_volumes(state, bindings)


@click.command()
@click.argument("volumes", nargs=-1, required=True, metavar="NAME[/SUBDIR]:/DST[:ro]...")
def cdi(volumes: tuple[str, ...]) -> None:
    """Print a CDI specification with a device for each volume.

    \b
      fusevol cdi data:/data logs:/var/log/app:ro > /etc/cdi/fusevol.json
      podman run --device fusevol.io/volume=data ...
    """
    from fusevol.options.binding import parse_binding
    from fusevol.plugin.specs import cdi as specification

    bindings = [(word, parse_binding(word)) for word in volumes]
    click.echo(json.dumps(specification(bindings), indent=2))
