"""
Replay a bag to the detector on simulated time, and shut down when the bag ends.

Also takes the arguments of the launch file that `cameras` names, by default detector.launch.py.
The bag starts when the node is active, so that the node misses no image. The launch fails (exit
code 1) if the bag cannot be played, the node fails, or it has published nothing of a camera.
"""

import shlex
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    Shutdown,
    TimerAction,
)
from launch.events import IncludeLaunchDescription as Include
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
    'expect_images': ('true', 'Fail if nothing of a camera was published.'),
    'run_without_subscribers': ('true', 'Run the network even if nothing subscribes to it.'),
    'cameras': ('detector', 'Launch file of the detector: detector (one camera) or surround.'),
}


def play(context):
    """Return the action that plays the bag once the node is active; reads the arguments."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    bag = Path(value['bag']).expanduser()
    if not bag.exists():
        raise RuntimeError(f'bag {bag}: no such file or folder')
    command = ['ros2', 'bag', 'play', str(bag), '--disable-keyboard-controls']
    command += ['--clock', value['clock_hz'], '--rate', value['rate']]
    command += ['--loop'] if value['loop'].lower() == 'true' else []
    command += ['--remap', *shlex.split(value['remap'])] if value['remap'] else []
    player = ExecuteProcess(
        cmd=[*command, *shlex.split(value['play_args'])], output='screen', on_exit=on_bag_end
    )
    return [
        RegisterEventHandler(
            OnStateTransition(goal_state='active', entities=[player], handle_once=True)
        )
    ]


def on_bag_end(event, context):
    """Return the actions for the end of the player: shut down, later, or fail with the player."""
    if context.is_shutdown:  # a second shutdown would be an exception in launch_ros
        return None
    if event.returncode:
        text = f'ros2 bag play ended with exit code {event.returncode}, see its last lines'
        raising = OpaqueFunction(function=raise_error, args=[text])
        # in an event of its own: an exception keeps an event from its other handlers
        return EmitEvent(event=Include(LaunchDescription([raising])))
    context.launch_configurations['_bag_ended'] = 'true'
    return TimerAction(period=LINGER_S, actions=[OpaqueFunction(function=shut_down)])


def shut_down(context):
    """Return the action that shuts the launch down, unless it is shutting down already."""
    return [] if context.is_shutdown else [Shutdown(reason='the bag has ended')]


def raise_error(_, reason):
    """Raise RuntimeError, which launch logs before it shuts down with exit code 1."""
    raise RuntimeError(reason)


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
            SetLaunchConfiguration('_declared', ' '.join(ARGUMENTS)),
            OpaqueFunction(function=play),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detector)),
        ]
    )
