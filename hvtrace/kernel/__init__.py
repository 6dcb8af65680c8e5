"""The only room that touches the kernel under observation."""
