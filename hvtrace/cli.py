"""The click group. One thin file per sub-command in commands/, loaded on use."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from hvtrace import __version__
from hvtrace.errors import HvtraceError

COMMANDS = ("top", "stat", "exporter", "explain", "guest", "demo")


class LazyGroup(click.Group):
    """Imports a command's module only when it is needed: start-up stays short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"hvtrace.commands.{cmd_name}")
        command: click.Command = module.command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hvtrace")
def cli() -> None:
    """See the Hyper-V hypercalls of KVM guests: which, how often, at what cost."""


def main() -> None:
    """Entry point: one line and status 1 for a failure, never a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except HvtraceError as error:
        click.echo(f"hvtrace: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
