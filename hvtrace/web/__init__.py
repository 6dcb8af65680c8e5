"""HTTP for strangers: who may stay, for how long, and what they are told."""
