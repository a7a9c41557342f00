"""
Launch the detector node for several cameras: detector.launch.py with config/surround.yaml.

Also takes the arguments of detector.launch.py; the parameter file lists the cameras.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare('mono3d_ros')

#: Argument of detector.launch.py -> its default here (below share/mono3d_ros), description.
FILES = {
    'params_file': ('config/surround.yaml', 'Parameters of the node, cameras included.'),
    'rviz_config': ('rviz/surround.rviz', 'RViz configuration.'),
}


def generate_launch_description():
    """Declare the changed defaults and include detector.launch.py."""
    detector = PathJoinSubstitution([SHARE, 'launch', 'detector.launch.py'])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name, default_value=PathJoinSubstitution([SHARE, file]), description=text
                )
                for name, (file, text) in FILES.items()
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detector)),
        ]
    )
