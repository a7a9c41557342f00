"""
Probes that import rclpy, torch, OpenCV or cv_bridge in a subprocess, for the doctor and decoders.

A broken package can end the process that imports it, so these are imported in a separate process.
Needs only the standard library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Time limit of one probe, seconds: importing torch from a cold disk is slow.
TIMEOUT_S = 180.0

#: Name of the probe of the node, which needs every package of the node.
NODE_PROBE = 'node'

#: Name of a probe, a module or NODE_PROBE -> program that prints one line of JSON.
PROBES = MappingProxyType(
    {
        'rclpy': """
import json, rclpy
from rclpy.utilities import get_rmw_implementation_identifier
rclpy.init()
rclpy.create_node('mono3d_ros_doctor').destroy_node()
rclpy.shutdown()
print(json.dumps({'rmw': get_rmw_implementation_identifier()}))
""",
        'torch': """
import json, warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    available = torch.cuda.is_available()
report = {'version': torch.__version__, 'cuda': torch.version.cuda or '', 'device': ''}
report['told'] = ' '.join(str(caught[0].message).split()) if caught else ''
if available:
    try:
        (torch.ones(2, device='cuda') + 1).sum().item()
        major, minor = torch.cuda.get_device_capability()
        report['device'] = f'{torch.cuda.get_device_name()} (sm_{major}{minor})'
    except RuntimeError as err:
        report['told'] = str(err).splitlines()[0]
print(json.dumps(report))
""",
        'cv2': """
import json, cv2
print(json.dumps({'version': cv2.__version__, 'path': cv2.__file__}))
""",
        'cv_bridge': """
import numpy
from cv_bridge import CvBridge
message = CvBridge().cv2_to_imgmsg(numpy.zeros((2, 2, 3), numpy.uint8), 'bgr8')
CvBridge().imgmsg_to_cv2(message, 'rgb8')
print('{}')
""",
        NODE_PROBE: """
from mono3d_ros.node import detector_node
from mono3d_ros.params import Params
from mono3d_ros.perception import model_loading
path = model_loading.SHIPPED_MODELS / Params().model
model_loading.warm_up(model_loading.load_model(path, 'cpu'))
print('{}')
""",
    }
)


@dataclass(frozen=True)
class ProbeResult:
    """
    Outcome of one probe.

    :param said: JSON object that the program printed; empty if it failed.
    :param error: last line of the error; empty if there was none.
    """

    said: Mapping[str, str]
    error: str = ''


def run_probe(program: str, timeout_s: float = TIMEOUT_S) -> ProbeResult:
    """Run a program with this interpreter in a subprocess and parse the last line it prints."""
    try:
        done = subprocess.run(
            [sys.executable, '-c', program], capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return ProbeResult({}, f'timed out after {timeout_s:g} s')
    if done.returncode < 0:
        return ProbeResult({}, f'crashed with signal {-done.returncode}')
    if done.returncode > 0:
        return ProbeResult({}, (done.stderr.strip() or 'failed without output').splitlines()[-1])
    try:
        return ProbeResult(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        return ProbeResult({}, f'no JSON in its output: {done.stdout!r}')
