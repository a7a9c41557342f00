"""Run the command `stl` as `python -m stl_core`."""

from stl_core.cli.main import main

main()
