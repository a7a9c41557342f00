"""Command `doctor`: check that this machine has everything that the node needs."""
