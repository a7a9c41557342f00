"""
Launch the detector of one camera.

Arguments left empty change nothing: the parameter file, or else the default of the node, holds.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile
from launch_ros.substitutions import FindPackageShare

PACKAGE = 'mono3d_ros'

#: Arguments that are handed on as parameters of the node where they are not empty.
PARAMETERS = {
    'model': 'Student file: a path, package://PACKAGE/PATH, or a name.',
    'device': 'auto, cpu, cuda or cuda:N.',
    'image_topic': 'Topic of the images.',
    'camera_info_topic': 'Topic of camera_info; by default beside the image topic.',
}


def detector(context):
    """Return the node; called when the values of the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    use_sim_time = LaunchConfiguration('use_sim_time').perform(context).lower() == 'true'
    return [
        Node(
            package=PACKAGE,
            executable='detector',
            name='detector',
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            parameters=[
                ParameterFile(LaunchConfiguration('params_file'), allow_substs=True),
                {name: value for name, value in given.items() if value},
                {'use_sim_time': use_sim_time},
            ],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        )
    ]


def generate_launch_description():
    """Declare the arguments, set the transport, start the node."""
    params_file = PathJoinSubstitution([FindPackageShare(PACKAGE), 'config', 'detector.yaml'])
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'params_file', default_value=params_file, description='Parameters of the node.'
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='false',
                choices=['true', 'false'],
                description='Take the time from /clock, as `ros2 bag play --clock` sends it.',
            ),
            DeclareLaunchArgument(
                'namespace', default_value='', description='Namespace of the node.'
            ),
            DeclareLaunchArgument(
                'log_level', default_value='info', description='debug, info, warn or error.'
            ),
            *(
                DeclareLaunchArgument(name, default_value='', description=text)
                for name, text in PARAMETERS.items()
            ),
            # with Fast DDS's defaults, images from another process on this machine get lost
            SetEnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA'),
            OpaqueFunction(function=detector),
        ]
    )
