"""Run `python -m stl_core`, which is the command `stl`."""

from stl_core.cli.main import main

main()
