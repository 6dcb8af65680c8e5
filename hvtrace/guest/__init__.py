"""A tiny VMM and guest on /dev/kvm that makes known hypercalls."""
