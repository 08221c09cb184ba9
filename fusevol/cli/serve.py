"""`fusevol serve`: the daemon of many volumes."""

import logging
import sys

import click


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
    "--check", is_flag=True, help="Read the configuration, say what is wrong with it, and stop."
)
def serve(path: str | None, check: bool) -> None:
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
      [volumes.data]             # options as of `fusevol volume create -o`
      source = "/srv/data"
      record = "data"
    """
    # Heavy, and only the daemon needs them.
    import trio

    from fusevol.daemon.settings import load

    settings = load(path)
    if check:
        return
    logging.basicConfig(
        format="fusevol: %(levelname)s: %(message)s", stream=sys.stderr, level=logging.INFO
    )

    async def run() -> None:
        from fusevol.daemon import serve as daemon
        from fusevol.daemon.volumes import Volumes

        async def docker(
            volumes: Volumes, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            from fusevol.plugin.docker import serve as serve_plugin

            listener = daemon.passed_socket("docker-plugin") or settings.docker.socket
            await serve_plugin(volumes, listener, task_status=task_status)

        fronts = [docker] if settings.docker.is_enabled else []
        await daemon.serve(settings, fronts, lambda: load(path))

    trio.run(run)
