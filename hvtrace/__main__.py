"""`python -m hvtrace`: the command line, where the script is not on the path."""

from hvtrace.cli import main

if __name__ == "__main__":
    main()
