"""The arguments of the launch files."""

#: Arguments that each file declares; the other files include detector.launch.py and its arguments.
ARGUMENTS = {
    'detector': {
        *('params_file', 'use_sim_time', 'namespace', 'log_level', 'respawn', 'required'),
        *('loose_frame', 'use_rviz', 'rviz_config'),
        *('model', 'device', 'image_topic', 'camera_info_topic'),
    },
    'surround': {'params_file', 'rviz_config'},
    'replay': {
        *('bag', 'rate', 'loop', 'remap', 'clock_hz', 'play_args'),
        *('use_sim_time', 'required', 'cameras'),
    },
}
