"""KVM modules with small patches of ours: hosts that return hypercall output in registers."""
