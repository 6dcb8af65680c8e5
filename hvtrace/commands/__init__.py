"""One thin file per sub-command."""
