"""`fusevol serve`: the daemon of many volumes."""

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fusevol.server.serve import Front
    from fusevol.server.settings import Settings


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(readable=False),
    metavar="FILE",
    help="Configuration file, in TOML.",
    show_default="/etc/fusevol/fusevol.toml, if it exists",
)
@click.option(
    "--metrics",
    "listen",
    metavar="ADDRESS",
    help="Serve metrics for Prometheus at an IP address and port, such as 127.0.0.1:10469, or at "
    "unix:/PATH.",
)
@click.option(
    "--check", is_flag=True, help="Check the configuration, report what is wrong, and exit."
)
def serve(path: str | None, listen: str | None, check: bool) -> None:
    """Run the daemon that serves named volumes to containers.

    `fusevol volume`, `run` and `attach`, Docker and Podman use it. Stays in the foreground. Volumes
    are kept in /var/lib/fusevol, sockets and current mounts in /run/fusevol, access logs in
    /var/log/fusevol. SIGHUP makes it reread the configuration and reopen the logs. SIGTERM ends it;
    volumes that containers use stay mounted, and the next `fusevol serve` takes them over.

    \b
    /etc/fusevol/fusevol.toml:
      idle_timeout = 10.0        # seconds until the worker of an unused volume ends
      [docker]
      socket = "/run/docker/plugins/fusevol.sock"
      [metrics]                  # see docs/monitoring.md
      listen = "127.0.0.1:10469"
      [volumes.data]             # options as in `fusevol volume create -o`
      source = "/srv/data"
      record = "data"
    """
    # Heavy, and only the daemon needs them.
    import trio

    from fusevol.server.settings import load, with_listen

    settings = load(path)
    if listen is not None:
        settings = with_listen(settings, listen)
    if check:
        return
    logging.basicConfig(
        format="fusevol: %(levelname)s: %(message)s", stream=sys.stderr, level=logging.INFO
    )

    async def run() -> None:
        from fusevol.server import serve as daemon

        await daemon.serve(settings, _fronts(settings), lambda: load(path))

    trio.run(run)


def _fronts(settings: "Settings") -> "list[Front]":
    from fusevol.server.serve import passed_socket

    fronts: list[Front] = []
    # Before the plugin, which takes the only socket that is passed for its own.
    for_metrics = passed_socket("metrics", or_only=False)
    if for_metrics is not None or settings.metrics.listen:
        from fusevol.metrics import endpoint

        fronts.append(partial(endpoint.serve, metrics=settings.metrics, passed=for_metrics))
    if settings.metrics.otlp:
        from fusevol.metrics import otlp as metrics_otlp

        fronts.append(partial(metrics_otlp.push, metrics=settings.metrics))
    if settings.docker.is_enabled:
        from fusevol.plugin import docker

        listener = passed_socket("docker-plugin") or settings.docker.socket
        fronts.append(partial(docker.serve, where=listener))
    return fronts
