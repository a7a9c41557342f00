"""Entry point of `python -m mono3d_ros.node`, the same as the command `detector`."""

import sys

from mono3d_ros.node.detector_node import main

sys.exit(main())
