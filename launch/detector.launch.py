"""
Launch the detector node for one camera; the other launch files include this one.

Every parameter of config/detector.yaml but `cameras` is an argument, too. An empty argument leaves
the value of the parameter file, or else the default of the node. The launch fails (exit code 1) if
the node does.
"""

import difflib
import sys
from pathlib import Path

import yaml
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnShutdown
from launch.events import IncludeLaunchDescription
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = 'mono3d_ros'
SHARE = FindPackageShare(PACKAGE)

#: Names of the launch files that include this one or are it.
FILES = ('detector.launch.py', 'surround.launch.py', 'replay.launch.py')
#: Parameter -> its default; the argument `cameras` of replay.launch.py is another one, and a list
#: of cameras needs a parameter file anyway.
PARAMETERS = {
    name: default
    for name, default in yaml.safe_load(
        (Path(__file__).parents[1] / 'config' / 'detector.yaml').read_text(encoding='utf-8')
    )['/**']['ros__parameters'].items()
    if name != 'cameras'
}
#: Time that the node may take to exit, seconds: Python takes a while to unload torch.
SIGTERM_TIMEOUT_S = '20'
#: Exit codes of a node that the user interrupted before it could handle signals.
INTERRUPTED = (-2, -15)
#: Exit code of a node with expect_images that has published nothing of a camera.
EXIT_NO_IMAGES = 3
#: Rotation from (x forward, y left, z up) to the optical frame (x right, y down, z forward).
OPTICAL = {'qx': '-0.5', 'qy': '0.5', 'qz': '-0.5', 'qw': '0.5'}


def detector(context):
    """Return the detector node; called when the values of the arguments are known."""
    check_arguments(context)
    return [
        LifecycleNode(
            package=PACKAGE,
            executable='detector',
            name='detector',
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            parameters=[
                ParameterFile(LaunchConfiguration('params_file'), allow_substs=True),
                overrides(context),
                sim_time(),
            ],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            respawn=LaunchConfiguration('respawn'),
            respawn_delay=2.0,
            sigterm_timeout=SIGTERM_TIMEOUT_S,
            on_exit=on_exit,
        )
    ]


def overrides(context):
    """Return the parameters that arguments set, with the types of their defaults."""
    texts = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    return {
        name: typed_value(name, text, PARAMETERS[name]) for name, text in texts.items() if text
    }


def typed_value(name, text, default):
    """Return an argument as a parameter value; RuntimeError if it is not of the default's type."""
    if isinstance(default, str):
        return ParameterValue(text, value_type=str)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if isinstance(default, bool) and isinstance(value, bool):
        return value
    if type(default) is int and type(value) is int:
        return value
    if isinstance(default, float) and type(value) in (int, float):
        return float(value)
    if isinstance(default, list) and isinstance(value, list) and value:
        return value if any(isinstance(each, str) for each in value) else [*map(float, value)]
    kinds = {bool: 'true or false', int: 'a whole number', float: 'a number'}
    kind = kinds.get(type(default), 'a list, such as [0.1, 0.2]')
    raise RuntimeError(f'argument {name}: expected {kind}, got {text!r}')


def check_arguments(context):
    """
    Refuse misspelt arguments, which launch itself ignores.

    Only if the user started one of FILES: the launch file of a vehicle that includes one has
    arguments of its own.
    """
    if not {Path(word).name for word in sys.argv} & set(FILES):
        return
    declared = context.launch_configurations.get('_declared', '').split()
    known = [*ARGUMENTS, *PARAMETERS, *declared]
    given = [word.partition(':=')[0] for word in context.argv if ':=' in word]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'did you mean {near[0]}?' if near else 'see --show-args'
            raise RuntimeError(f'unknown launch argument {name}: {hint}')


def on_exit(event, context):
    """Return the actions for the end of the node: a failure of the node fails the launch."""
    code = event.returncode
    set_value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    failure = fail(f'the detector ended with exit code {code}, see its last lines')
    if context.is_shutdown:  # no images before the end of the bag: the user ended the replay
        too_early = code == EXIT_NO_IMAGES and '_bag_ended' not in context.launch_configurations
        return [] if code in (0, *INTERRUPTED) or too_early else [failure]
    if set_value['required'] == 'true':
        return [failure] if code else [Shutdown(reason='the detector has exited')]
    if code and set_value['respawn'] != 'true':
        return [RegisterEventHandler(OnShutdown(on_shutdown=[failure]))]
    return []


def fail(reason):
    """Return the action that ends the launch with exit code 1 and a line with the reason."""
    # in an event of its own: an exception keeps an event from its other handlers
    raising = OpaqueFunction(function=raise_error, args=[reason])
    return EmitEvent(event=IncludeLaunchDescription(LaunchDescription([raising])))


def raise_error(_, reason):
    """Raise RuntimeError, which launch logs before it shuts down with exit code 1."""
    raise RuntimeError(reason)


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


FLAG = {'choices': ['true', 'false']}
#: Argument -> keywords of its declaration; those of PARAMETERS are declared, too.
ARGUMENTS = {
    'params_file': {
        'default_value': PathJoinSubstitution([SHARE, 'config', 'detector.yaml']),
        'description': 'Parameters of the node.',
    },
    'use_sim_time': {
        'default_value': 'false',
        'description': 'Use the time of /clock.',
        **FLAG,
    },
    'namespace': {'default_value': '', 'description': 'Namespace of the node.'},
    'log_level': {'default_value': 'info', 'description': 'debug, info, warn or error.'},
    'respawn': {
        'default_value': 'false',
        'description': 'Restart the node when it exits.',
        **FLAG,
    },
    'required': {
        'default_value': 'false',
        'description': 'Shut the launch down when the node exits.',
        **FLAG,
    },
    'loose_frame': {
        'default_value': '',
        'description': 'Camera frame without tf, to place in base_link.',
    },
    'use_rviz': {'default_value': 'false', 'description': 'Start RViz too.', **FLAG},
    'rviz_config': {
        'default_value': PathJoinSubstitution([SHARE, 'rviz', 'detector.rviz']),
        'description': 'RViz configuration.',
    },
}


def generate_launch_description():
    """Declare the arguments, set the DDS transport, and start the node and the viewer."""
    # the defaults of Fast DDS lose images from other processes on this machine
    transports = EnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', default_value='LARGE_DATA')
    about = 'Parameter of the node; {!r} unless it or the parameter file sets another value.'
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, **options) for name, options in ARGUMENTS.items()),
            *(
                DeclareLaunchArgument(name, default_value='', description=about.format(default))
                for name, default in PARAMETERS.items()
            ),
            SetEnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', transports),
            OpaqueFunction(function=detector),
            OpaqueFunction(function=loose_camera),
            viewer(),
        ]
    )
