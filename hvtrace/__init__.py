"""hvtrace: what Hyper-V hypercalls do on a Linux KVM host."""

__version__ = "0.1.0"
