"""Counters at one instant, and what follows from them. Pure: no I/O."""
