"""The arguments of the launch files."""

from dataclasses import fields

from mono3d_ros.params import Params

#: Parameters of the node that are launch arguments; `cameras` of replay.launch.py is another one.
PARAMETERS = {each.name for each in fields(Params)} - {'cameras'}

#: Arguments that each file declares; the other files include detector.launch.py and its arguments.
ARGUMENTS = {
    'detector': {
        *('params_file', 'use_sim_time', 'namespace', 'log_level', 'respawn', 'required'),
        *('loose_frame', 'use_rviz', 'rviz_config'),
        *PARAMETERS,
    },
    'surround': {'params_file', 'rviz_config'},
    'replay': {
        *('bag', 'rate', 'loop', 'remap', 'clock_hz', 'play_args'),
        *('use_sim_time', 'required', 'cameras'),
        *('expect_images', 'run_without_subscribers'),
    },
}
