"""The command `stl`, one file a group of subcommands."""
