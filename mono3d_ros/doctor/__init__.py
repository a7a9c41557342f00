"""The command doctor: check that this machine has all that the node needs."""
