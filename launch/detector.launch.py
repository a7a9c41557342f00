"""
Launch the detector node for one camera; the other launch files include this one.

An empty argument leaves the value of the parameter file, or else the default of the node.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = 'mono3d_ros'
SHARE = FindPackageShare(PACKAGE)

#: Arguments that become parameters of the node unless they are empty.
PARAMETERS = {
    'model': 'Model file: a path, package://PACKAGE/PATH, or a name.',
    'device': 'auto, cpu, cuda or cuda:N.',
    'image_topic': 'Topic of the images.',
    'camera_info_topic': 'Topic of camera_info; by default next to the image topic.',
}
#: Time that the node may take to exit, seconds: Python takes a while to unload torch.
SIGTERM_TIMEOUT_S = '20'
#: Rotation from (x forward, y left, z up) to the optical frame (x right, y down, z forward).
OPTICAL = {'qx': '-0.5', 'qy': '0.5', 'qz': '-0.5', 'qw': '0.5'}


def detector(context):
    """Return the detector node; called when the values of the arguments are known."""
    values = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    overrides = {name: text for name, text in values.items() if text}
    required = LaunchConfiguration('required').perform(context) == 'true'
    return [
        LifecycleNode(
            package=PACKAGE,
            executable='detector',
            name='detector',
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            parameters=[
                ParameterFile(LaunchConfiguration('params_file'), allow_substs=True),
                {name: ParameterValue(text, value_type=str) for name, text in overrides.items()},
                sim_time(),
            ],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            respawn=LaunchConfiguration('respawn'),
            respawn_delay=2.0,
            sigterm_timeout=SIGTERM_TIMEOUT_S,
            on_exit=[OpaqueFunction(function=shut_down)] if required else None,
        )
    ]


def shut_down(context):
    """Return the action that shuts the launch down, unless it is shutting down already."""
    return [] if context.is_shutdown else [Shutdown(reason='the detector has exited')]


def loose_camera(context):
    """Return the static transform of loose_frame, looking forward in base_link, if it is set."""
    frame = LaunchConfiguration('loose_frame').perform(context)
    rotation = [word for name, value in OPTICAL.items() for word in (f'--{name}', value)]
    frames = ['--frame-id', 'base_link', '--child-frame-id', frame]
    publisher = Node(
        package='tf2_ros', executable='static_transform_publisher', arguments=[*rotation, *frames]
    )
    return [publisher] if frame else []


def viewer():
    """Return RViz, started if use_rviz is true."""
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', LaunchConfiguration('rviz_config')],
        parameters=[sim_time()],
        condition=IfCondition(LaunchConfiguration('use_rviz')),
    )


def sim_time():
    """Return the parameter use_sim_time."""
    return {'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)}


def argument(name, default, description, **more):
    """Return the declaration of an argument."""
    return DeclareLaunchArgument(name, default_value=default, description=description, **more)


def generate_launch_description():
    """Declare the arguments, set the DDS transport, and start the node and the viewer."""
    params_file = PathJoinSubstitution([SHARE, 'config', 'detector.yaml'])
    rviz_config = PathJoinSubstitution([SHARE, 'rviz', 'detector.rviz'])
    flag = {'choices': ['true', 'false']}
    # the defaults of Fast DDS lose images from other processes on this machine
    transports = EnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', default_value='LARGE_DATA')
    return LaunchDescription(
        [
            argument('params_file', params_file, 'Parameters of the node.'),
            argument('use_sim_time', 'false', 'Use the time of /clock.', **flag),
            argument('namespace', '', 'Namespace of the node.'),
            argument('log_level', 'info', 'debug, info, warn or error.'),
            argument('respawn', 'false', 'Restart the node when it exits.', **flag),
            argument('required', 'false', 'Shut the launch down when the node exits.', **flag),
            argument('loose_frame', '', 'Camera frame without tf, to place in base_link.'),
            argument('use_rviz', 'false', 'Start RViz too.', **flag),
            argument('rviz_config', rviz_config, 'RViz configuration.'),
            *(argument(name, '', text) for name, text in PARAMETERS.items()),
            SetEnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', transports),
            OpaqueFunction(function=detector),
            OpaqueFunction(function=loose_camera),
            viewer(),
        ]
    )
