"""
Launch the detector of several cameras: detector.launch.py with config/surround.yaml.

All arguments of detector.launch.py are here too; what cameras there are is in the parameter file.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare('mono3d_ros')

#: Arguments of detector.launch.py with other defaults here: file below share/mono3d_ros, meaning.
FILES = {
    'params_file': ('config/surround.yaml', 'Parameters of the node, cameras among them.'),
    'rviz_config': ('rviz/surround.rviz', 'What RViz shows.'),
}


def generate_launch_description():
    """Set the other defaults and include the rest."""
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
