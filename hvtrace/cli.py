"""The click group. One thin file per sub-command in commands/, loaded on use."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

import click

from hvtrace import __version__
from hvtrace.errors import HvtraceError

COMMANDS = ("top", "stat", "exporter", "audit", "explain", "guest", "demo", "doctor", "unpin")
TRACERS = ("top", "stat", "exporter", "audit")  # that load programs


class LazyGroup(click.Group):
    """Imports a command's module only when it is needed: start-up stays short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all sub-commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The sub-command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"hvtrace.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The sub-command that `args` call, and its own arguments."""
        options = {word.partition("=")[0] for word in args}
        # With --pin there may be nothing to load, with --replay there is nothing.
        if args[0] in TRACERS and not {"-h", "--help", "--pin", "--replay"} & options:
            from hvtrace.kernel import loader

            loader.start_ahead()
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hvtrace")
def cli() -> None:
    """See the Hyper-V hypercalls of KVM guests: which, how often, at what cost."""


def main() -> None:
    """One line and status 1 for a failure, never a traceback."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except HvtraceError as error:
        click.echo(f"hvtrace: {error}", err=True)
        status = 1
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:
        # Whoever reads our output has enough of it ("| head"): nothing went wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
