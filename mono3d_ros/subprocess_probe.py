"""
What is installed on this machine, gathered in one place for doctor.py; nothing is judged here.

Packages are looked up, not imported: a broken one must not take the doctor with it. What can only
be known by trying is tried in a process of its own. Needs nothing but Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: How long one trial may take, seconds: torch from a cold disk is slow.
TIMEOUT_S = 180.0

#: What can only be known by trying: name -> program that prints one line of JSON.
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
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    there = torch.cuda.is_available()
said = {'version': torch.__version__, 'cuda': torch.version.cuda or '', 'device': ''}
said['told'] = ' '.join(str(told[0].message).split()) if told else ''
if there:
    try:
        (torch.ones(2, device='cuda') + 1).sum().item()
        major, minor = torch.cuda.get_device_capability()
        said['device'] = f'{torch.cuda.get_device_name()} (sm_{major}{minor})'
    except RuntimeError as err:
        said['told'] = str(err).splitlines()[0]
print(json.dumps(said))
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
    }
)


@dataclass(frozen=True)
class ProbeResult:
    """
    What came of a trial.

    :param said: what it printed; empty where it failed.
    :param error: last line of what went wrong; empty where nothing did.
    """

    said: Mapping[str, str]
    error: str = ''


def run_probe(program: str, timeout_s: float = TIMEOUT_S) -> ProbeResult:
    """Run a program under this interpreter, in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, '-c', program], capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return ProbeResult({}, f'no end after {timeout_s:g} s')
    if done.returncode < 0:
        return ProbeResult({}, f'crashed with signal {-done.returncode}')
    if done.returncode > 0:
        return ProbeResult({}, (done.stderr.strip() or 'failed without a word').splitlines()[-1])
    try:
        return ProbeResult(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        return ProbeResult({}, f'answered {done.stdout!r}')
