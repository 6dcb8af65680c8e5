"""A Debian kernel in an emulated VM: real KVM and Hyper-V hypercalls on any machine."""
