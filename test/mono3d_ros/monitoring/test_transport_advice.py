"""Advice on lost images: the setting of this environment that is the likely cause."""

import re

import pytest

from mono3d_ros.monitoring.transport_advice import localhost_setting, lost_images_advice

LARGE = {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}
RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'


@pytest.mark.parametrize(
    ('variables', 'setting'),
    [
        ({RANGE: 'LOCALHOST'}, f'{RANGE}=LOCALHOST'),
        ({RANGE: 'localhost'}, f'{RANGE}=localhost'),  # rcl: 'assuming localhost only'
        ({RANGE: 'SUBNET'}, ''),
        ({RANGE: 'OFF'}, ''),
        ({RANGE: ''}, ''),
        ({}, ''),
        ({'ROS_LOCALHOST_ONLY': '1', 'ROS_DISTRO': 'jazzy'}, 'ROS_LOCALHOST_ONLY=1'),
        ({'ROS_LOCALHOST_ONLY': '0', 'ROS_DISTRO': 'jazzy'}, ''),
        ({'ROS_LOCALHOST_ONLY': '1', 'ROS_DISTRO': 'lyrical'}, ''),  # no longer read
    ],
)
def test_settings_that_replace_the_transports(variables, setting):
    assert localhost_setting({**LARGE, **variables}) == setting


@pytest.mark.parametrize(
    ('rmw', 'variables', 'advice'),
    [
        ('rmw_fastrtps_cpp', {}, 'try FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA on both sides'),
        (
            'rmw_fastrtps_cpp',
            {'FASTDDS_BUILTIN_TRANSPORTS': 'SHM'},
            'try FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA, not SHM, on both sides',
        ),
        ('rmw_fastrtps_cpp', LARGE, '^FASTDDS_.*=LARGE_DATA is set here: set it for the camera'),
        (
            'rmw_fastrtps_dynamic_cpp',
            {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA?max_msg_size=1MB'},
            'is set here',
        ),
        (
            'rmw_fastrtps_cpp',
            {**LARGE, RANGE: 'LOCALHOST'},
            f'^{RANGE}=LOCALHOST makes Fast DDS ignore .*{RANGE}=SUBNET .*reliability: reliable',
        ),
        (
            'rmw_fastrtps_cpp',
            {**LARGE, 'ROS_LOCALHOST_ONLY': '1', 'ROS_DISTRO': 'humble'},
            '^ROS_LOCALHOST_ONLY=1 makes .*: unset it',
        ),
        (
            'rmw_fastrtps_cpp',
            {'FASTDDS_DEFAULT_PROFILES_FILE': '/etc/dds.xml'},
            'check the transports in FASTDDS_DEFAULT_PROFILES_FILE=/etc/dds.xml',
        ),
    ],
)
def test_advice_names_the_cause_in_this_environment(rmw, variables, advice):
    assert re.search(advice, lost_images_advice(rmw, variables))


@pytest.mark.parametrize(
    ('variables', 'file'),
    [
        ({}, 'a file in CYCLONEDDS_URI'),
        ({'CYCLONEDDS_URI': 'file:///etc/cyclone.xml'}, 'file:///etc/cyclone.xml'),
    ],
)
def test_cyclone_is_advised_reliability_first_and_a_buffer_that_never_stops_it(variables, file):
    advice = lost_images_advice('rmw_cyclonedds_cpp', {**LARGE, **variables})
    assert advice.startswith('try parameter reliability: reliable')
    assert f'max="10MB"/> in {file} ' in advice
    assert 'min=' not in advice


def test_variables_of_fast_dds_are_not_advised_for_another_middleware():
    assert 'FASTDDS' not in lost_images_advice('rmw_cyclonedds_cpp', {RANGE: 'LOCALHOST'})
