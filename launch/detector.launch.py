"""
Launch the detector; the other launch files include this one.

Arguments left empty change nothing: the parameter file, or else the default of the node, holds.
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

#: Arguments that are handed on as parameters of the node where they are not empty.
PARAMETERS = {
    'model': 'Student file: a path, package://PACKAGE/PATH, or a name.',
    'device': 'auto, cpu, cuda or cuda:N.',
    'image_topic': 'Topic of the images.',
    'camera_info_topic': 'Topic of camera_info; by default beside the image topic.',
}
#: How long the node may take to end, seconds: Python needs some to let go of torch.
PATIENCE_S = '20'
#: Turns x ahead, y left, z up into a camera's x right, y down, z ahead; quaternion x y z w.
OPTICAL = {'qx': '-0.5', 'qy': '0.5', 'qz': '-0.5', 'qw': '0.5'}


def detector(context):
    """Return the node; called when the values of the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    texts = {name: text for name, text in given.items() if text}
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
                {name: ParameterValue(text, value_type=str) for name, text in texts.items()},
                sim_time(),
            ],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            respawn=LaunchConfiguration('respawn'),
            respawn_delay=2.0,
            sigterm_timeout=PATIENCE_S,
            on_exit=[OpaqueFunction(function=end)] if required else None,
        )
    ]


def end(context):
    """Return what ends everything, unless that is going on already."""
    return [] if context.is_shutdown else [Shutdown(reason='the detector is gone')]


def loose_camera(context):
    """Return a publisher that hangs a camera without tf below base_link, looking ahead."""
    frame = LaunchConfiguration('loose_frame').perform(context)
    turn = [word for name, value in OPTICAL.items() for word in (f'--{name}', value)]
    ends = ['--frame-id', 'base_link', '--child-frame-id', frame]
    publisher = Node(
        package='tf2_ros', executable='static_transform_publisher', arguments=[*turn, *ends]
    )
    return [publisher] if frame else []


def viewer():
    """Return RViz, for who wants to see."""
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', LaunchConfiguration('rviz_config')],
        parameters=[sim_time()],
        condition=IfCondition(LaunchConfiguration('use_rviz')),
    )


def sim_time():
    """Return the parameter that says whose time it is."""
    return {'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)}


def argument(name, default, description, **more):
    """Declare an argument."""
    return DeclareLaunchArgument(name, default_value=default, description=description, **more)


def generate_launch_description():
    """Declare the arguments, set the transport, start node and viewer."""
    params_file = PathJoinSubstitution([SHARE, 'config', 'detector.yaml'])
    rviz_config = PathJoinSubstitution([SHARE, 'rviz', 'detector.rviz'])
    flag = {'choices': ['true', 'false']}
    # with Fast DDS's defaults, images from another process on this machine get lost
    transports = EnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', default_value='LARGE_DATA')
    return LaunchDescription(
        [
            argument('params_file', params_file, 'Parameters of the node.'),
            argument('use_sim_time', 'false', 'Take the time from /clock.', **flag),
            argument('namespace', '', 'Namespace of the node.'),
            argument('log_level', 'info', 'debug, info, warn or error.'),
            argument('respawn', 'false', 'Start the node again when it dies.', **flag),
            argument('required', 'false', 'End everything when the node ends.', **flag),
            argument('loose_frame', '', 'Frame of a camera that has no tf, for viewers.'),
            argument('use_rviz', 'false', 'Start RViz too.', **flag),
            argument('rviz_config', rviz_config, 'What RViz shows.'),
            *(argument(name, '', text) for name, text in PARAMETERS.items()),
            SetEnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', transports),
            OpaqueFunction(function=detector),
            OpaqueFunction(function=loose_camera),
            viewer(),
        ]
    )
