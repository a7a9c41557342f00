"""The real node with the toy detector: `python toy_detector_node.py --ros-args -p model:=FILE`."""

import sys

import toy_detector

from mono3d_ros.node.detector_node import main
from stl_core.models import DETECTORS

DETECTORS['toy'] = toy_detector.ENTRY

if __name__ == '__main__':
    sys.exit(main())
