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
    help="The configuration, in TOML.",
    show_default="/etc/fusevol/fusevol.toml, if it exists",
)
@click.option(
    "--metrics",
    "listen",
    metavar="ADDRESS",
    help="Answer Prometheus at an IP address and port, 127.0.0.1:10469 say, or unix:/PATH.",
)
@click.option(
    "--check", is_flag=True, help="Read the configuration, say what is wrong with it, and stop."
)
def serve(path: str | None, listen: str | None, check: bool) -> None:
    """Serve volumes to containers: for `fusevol volume`, `run`, `attach`, Docker and Podman.

    Stays in the foreground. Volumes are kept in /var/lib/fusevol, sockets and what is mounted now
    in /run/fusevol, access logs in /var/log/fusevol. SIGHUP has the configuration read again and
    the logs opened anew. SIGTERM ends it; volumes that containers use are served on, and taken up
    by the next `fusevol serve`.

    \b
    /etc/fusevol/fusevol.toml:
      idle_timeout = 10.0        # seconds until the worker of an unused volume ends
      [docker]
      socket = "/run/docker/plugins/fusevol.sock"
      [metrics]                  # see docs/monitoring.md
      listen = "127.0.0.1:10469"
      [volumes.data]             # options as of `fusevol volume create -o`
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
