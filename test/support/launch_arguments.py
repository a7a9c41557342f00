"""The arguments of the launch files."""

#: What each declares of its own; the others include detector.launch.py and so have all of its.
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
