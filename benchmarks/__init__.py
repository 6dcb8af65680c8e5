"""Measurements, repeatable by anyone: `make bench`."""
