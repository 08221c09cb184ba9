"""`fusevol`: finds the command, and turns errors into one line on stderr and an exit code."""

import importlib
import os
import sys
from typing import Final

import click

from fusevol import __version__
from fusevol.cli.choices import Group
from fusevol.errors import EXIT_FAILED, FusevolError

SECTIONS: Final = {
    "Mounts": {
        "mount": "fusevol.cli.mount:mount",
        "unmount": "fusevol.cli.unmount:unmount",
        "status": "fusevol.cli.status:status",
        "top": "fusevol.cli.top:top",
        "reload": "fusevol.cli.reload:reload",
    },
    "Volumes": {
        "serve": "fusevol.cli.serve:serve",
        "volume": "fusevol.cli.volume:volume",
    },
    "Containers": {
        "attach": "fusevol.cli.attach:attach",
        "detach": "fusevol.cli.attach:detach",
        "run": "fusevol.cli.run:run",
        "ps": "fusevol.cli.ps:ps",
        "rm": "fusevol.cli.rm:rm",
        "commit": "fusevol.cli.commit:commit",
        "hook": "fusevol.cli.hook:hook",
        "cdi": "fusevol.cli.hook:cdi",
    },
    "Logs": {
        "log": "fusevol.cli.log.group:log",
    },
    "System": {
        "doctor": "fusevol.cli.doctor:doctor",
        "completion": "fusevol.cli.completion:completion",
    },
}
"""Section of `fusevol --help` -> command name -> module:object. Modules are imported when needed,
which keeps `fusevol log` from paying for the imports of `fusevol mount`."""

COMMANDS: Final = {name: where for section in SECTIONS.values() for name, where in section.items()}


class LazyGroup(Group):
    """A group whose commands are imported when they are called or listed, section by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            rows = []
            for name in section:
                command = self.get_command(ctx, name)
                assert command is not None
                # As in click: two columns of margin, and two spaces on either side of the name.
                summary = command.get_short_help_str(formatter.width - 6 - width)
                rows.append((name.ljust(width), summary))
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fusevol")
def cli() -> None:
    """Serve host directories as container volumes and record every operation in an access log.

    \b
    Serve a directory, watch what happens to it, stop:
      fusevol mount /srv/data /mnt/data --log /var/log/data.log
      fusevol log tail -f /var/log/data.log
      fusevol unmount /mnt/data
    """


def main() -> None:
    """Entry point of the `fusevol` command."""
    if sys.argv[1:2] and sys.argv[1].startswith("/"):
        # mount.fuse3(8), called for the type fuse.fusevol, runs `fusevol SOURCE MOUNTPOINT -o ...`.
        from fusevol.cli import mount_helper

        mount_helper.main()
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except FusevolError as error:
        from fusevol.terminal import printable

        click.echo(f"fusevol: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except RecursionError:
        # Only input nests without bound: a log, a configuration, an image.
        click.echo("fusevol: the input is nested too deeply", err=True)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        from fusevol.terminal import printable

        # For example, a state directory that cannot be written.
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        click.echo(f"fusevol: {printable(where + (error.strerror or str(error)))}", err=True)
        sys.exit(EXIT_FAILED)
