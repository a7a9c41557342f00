"""
Advice on images that are lost in transport: which setting of this environment is the likely cause.

Pure functions that need only Python; `doctor`, the diagnostics and the log of the node use them.
"""

from __future__ import annotations

from collections.abc import Mapping

TRANSPORTS_VARIABLE = 'FASTDDS_BUILTIN_TRANSPORTS'
#: Variables that name a profile of Fast DDS, which may define the transports.
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
RANGE_VARIABLE, LOCALHOST_VARIABLE = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'
#: Values of RANGE_VARIABLE that leave the transports of Fast DDS alone; OFF finds no other
#: process, and rcl takes every other value, 'localhost' for example, for LOCALHOST.
OTHER_RANGES = ('', 'OFF', 'SUBNET', 'SYSTEM_DEFAULT')
CYCLONE_VARIABLE = 'CYCLONEDDS_URI'
#: Element of Cyclone's file that requests a buffer for raw 1080p images and takes what the kernel
#: grants; with min="10MB" no process starts below that limit.
CYCLONE_BUFFER = '<SocketReceiveBufferSize max="10MB"/>'
#: Distributions of ROS that read LOCALHOST_VARIABLE, and then replace the transports likewise.
LOCALHOST_DISTRIBUTIONS = ('humble', 'iron', 'jazzy')


def localhost_setting(variables: Mapping[str, str]) -> str:
    """
    Return the setting, NAME=VALUE, that replaces the transports of Fast DDS; '' without one.

    rmw_fastrtps then uses shared memory and UDP of their default sizes, whatever
    FASTDDS_BUILTIN_TRANSPORTS says, and large best-effort images are lost.

    :param variables: the environment of the process.
    """
    if variables.get(RANGE_VARIABLE, '') not in OTHER_RANGES:
        return f'{RANGE_VARIABLE}={variables[RANGE_VARIABLE]}'
    is_read = variables.get('ROS_DISTRO', '') in LOCALHOST_DISTRIBUTIONS
    if is_read and variables.get(LOCALHOST_VARIABLE, '') == '1':
        return f'{LOCALHOST_VARIABLE}=1'
    return ''


def localhost_remedy(setting: str) -> str:
    """Return what to do about a setting of localhost_setting, on both sides."""
    instead = f'{RANGE_VARIABLE}=SUBNET' if setting.startswith(RANGE_VARIABLE) else 'unset it'
    return (
        f'{instead} and {TRANSPORTS_VARIABLE}=LARGE_DATA for cameras and detector, or parameter '
        'reliability: reliable'
    )


def lost_images_advice(rmw: str, variables: Mapping[str, str]) -> str:
    """
    Return what to try if images are published but do not arrive: one clause.

    :param rmw: identifier of the RMW implementation, such as 'rmw_fastrtps_cpp'.
    :param variables: the environment of the node.
    """
    if 'fastrtps' in rmw:
        return _fastdds_advice(variables)
    if 'cyclonedds' in rmw:
        file = variables.get(CYCLONE_VARIABLE, '') or f'a file in {CYCLONE_VARIABLE}'
        return (
            f'try parameter reliability: reliable, or {CYCLONE_BUFFER} in {file} and a larger '
            'net.core.rmem_max'
        )
    return 'try parameter reliability: reliable, or compressed images'


def _fastdds_advice(variables: Mapping[str, str]) -> str:
    if setting := localhost_setting(variables):
        return (
            f'{setting} makes Fast DDS ignore {TRANSPORTS_VARIABLE}: {localhost_remedy(setting)}'
        )
    transports = variables.get(TRANSPORTS_VARIABLE, '')
    if transports.startswith('LARGE_DATA'):
        return (
            f'{TRANSPORTS_VARIABLE}=LARGE_DATA is set here: set it for the camera, too, and no '
            f'{RANGE_VARIABLE}=LOCALHOST there, which makes it void'
        )
    for profile in PROFILE_VARIABLES:
        if variables.get(profile):
            return f'check the transports in {profile}={variables[profile]}'
    now = f', not {transports},' if transports else ''
    return f'try {TRANSPORTS_VARIABLE}=LARGE_DATA{now} on both sides'
