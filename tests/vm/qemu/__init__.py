"""A real QEMU with a tiny enlightened guest that counts its own hypercalls."""
