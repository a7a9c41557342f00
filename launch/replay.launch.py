"""
Play a bag to the detector, on the bag's own time: everything ends when the bag does.

All arguments of detector.launch.py are here too, or of the launch file that argument `cameras`
names. The bag starts when the node is active, so that no image of it is missed.
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

#: How long the last images have to be answered once the bag is over, seconds.
LINGER_S = 3.0

#: Argument -> default, meaning; one without a default has to be given.
ARGUMENTS = {
    'bag': (None, 'The bag: folder or file.'),
    'rate': ('1.0', 'How fast it is played.'),
    'loop': ('false', 'Play it again and again: true or false.'),
    'remap': ('', 'Topics of the bag under other names: "/from:=/to /from:=/to".'),
    'clock_hz': ('100', 'How often /clock is published.'),
    'play_args': ('', 'What else `ros2 bag play` shall be told, such as "--start-offset 10".'),
    'use_sim_time': ('true', 'Take the time from /clock.'),
    'required': ('true', 'End everything when the node ends.'),
    'cameras': ('detector', 'Launch file of the detector: detector (one camera) or surround.'),
}


def play(context):
    """Return what starts the bag; called when the values of the arguments are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = ['ros2', 'bag', 'play', value['bag'], '--disable-keyboard-controls']
    command += ['--clock', value['clock_hz'], '--rate', value['rate']]
    command += ['--loop'] if value['loop'].lower() == 'true' else []
    command += ['--remap', *shlex.split(value['remap'])] if value['remap'] else []
    over = TimerAction(period=LINGER_S, actions=[Shutdown(reason='the bag is over')])
    player = ExecuteProcess(
        cmd=[*command, *shlex.split(value['play_args'])], output='screen', on_exit=[over]
    )
    return [
        RegisterEventHandler(
            OnStateTransition(goal_state='active', entities=[player], handle_once=True)
        )
    ]


def generate_launch_description():
    """Declare the arguments, wait for the detector, play."""
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
