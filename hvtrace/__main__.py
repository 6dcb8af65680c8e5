"""Entry point, of the script and of `python -m hvtrace`.

Imports nothing of weight before Ctrl-C is dealt with: until the command line
itself takes over, it ends the process as it would any C program.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line."""
    from hvtrace.cli import main as run

    run()


if __name__ == "__main__":
    main()
