"""Choice of the cameras of a bag."""
