"""A real Prometheus scrapes the real exporter while real guests make their calls."""
