"""
Replay a bag to the detector on simulated time, and shut down when the bag ends.

Also takes the arguments of the launch file that `cameras` names, by default detector.launch.py.
The bag starts when the node is active, so that the node misses no image.
"""

import shlex

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import FindPackageShare

#: Time that the node has for the last images after the end of the bag, seconds.
LINGER_S = 3.0

#: Argument -> default, description; an argument without a default is required.
ARGUMENTS = {
    'bag': (None, 'The bag: folder or file.'),
    'rate': ('1.0', 'Playback rate, relative to the recording.'),
    'loop': ('false', 'Repeat the bag: true or false.'),
    'remap': ('', 'Remapping of topics of the bag: "/from:=/to /from:=/to".'),
    'clock_hz': ('100', 'Rate of /clock, Hz.'),
    'play_args': ('', 'Further arguments of `ros2 bag play`, such as "--start-offset 10".'),
    'use_sim_time': ('true', 'Use the time of /clock.'),
    'required': ('true', 'Shut the launch down when the node exits.'),
    'cameras': ('detector', 'Launch file of the detector: detector (one camera) or surround.'),
}


def play(context):
    """Return the action that plays the bag once the node is active; reads the arguments."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = ['ros2', 'bag', 'play', value['bag'], '--disable-keyboard-controls']
    command += ['--clock', value['clock_hz'], '--rate', value['rate']]
    command += ['--loop'] if value['loop'].lower() == 'true' else []
    command += ['--remap', *shlex.split(value['remap'])] if value['remap'] else []
    shutdown = TimerAction(period=LINGER_S, actions=[Shutdown(reason='the bag has ended')])
    player = ExecuteProcess(
        cmd=[*command, *shlex.split(value['play_args'])], output='screen', on_exit=[shutdown]
    )
    return [
        RegisterEventHandler(
            OnStateTransition(goal_state='active', entities=[player], handle_once=True)
        )
    ]


def generate_launch_description():
    """Declare the arguments, start the detector and play the bag when it is active."""
    share = FindPackageShare('mono3d_ros')
    detector = [share, '/launch/', LaunchConfiguration('cameras'), '.launch.py']
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=play),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detector)),
        ]
    )
