"""The command evaluate_bag and its parts."""
