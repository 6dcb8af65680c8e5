"""Snapshots as Prometheus metrics."""
