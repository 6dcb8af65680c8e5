"""What a guest was given, what it does with it, and what follows. Pure: no I/O."""
