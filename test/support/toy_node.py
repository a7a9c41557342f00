"""
The real node with a toy runtime and a toy output: `python toy_node.py --ros-args ...`.

It prints at the end whether anything has imported torch.
"""

import sys

import toy_output
import toy_runtime

from mono3d_ros.node.detector_node import main
from mono3d_ros.node.publishers import OUTPUTS
from stl_core.inference.runtimes import RUNTIMES

RUNTIMES['.toy'] = toy_runtime.RUNTIME
OUTPUTS['count'] = toy_output.OUTPUT

if __name__ == '__main__':
    code = main()
    print(f'torch imported: {"torch" in sys.modules}', flush=True)
    sys.exit(code)
