"""Whatever a file holds, its reader and the checks of labels raise errors of their kind only."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kitti_scenes import P2
from label_sets import label_line

from stl_core.data.checks.box_agreement import check_boxes
from stl_core.data.checks.label_report import check_images
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.checks.projection import picture_fault, picture_warning, projection_fault
from stl_core.data.checks.taught import is_off_canvas, why_left_out
from stl_core.data.dataset import DataConfig
from stl_core.data.frame_source import DataError, LazyArray, SourceImage, read_split
from stl_core.data.picture_size import read_picture_size
from stl_core.data.sources import kitti, kitti_calib
from stl_core.preprocessing import InputSpec
from stl_core.training.config_builder import ConfigError, read_yaml

fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBER = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([-1, 0, 1, -1000, 1e308, -1e308, 1e-320, 721.5, 99]),
)
WORDS = [
    'Car',
    '"Car"',
    'P2:',
    'P0:',
    'P2',
    ':',
    '0',
    '-1',
    '1e999',
    'nan',
    '12',
    '\n',
    '\ufeff',
    '\0',
]
TEXT = st.lists(st.sampled_from(WORDS) | st.text(max_size=6) | NUMBER.map(repr), max_size=40)
READERS = {
    'labels': kitti.read_labels,
    'results': kitti.read_results,
    'calib': kitti_calib.read_calib,
    'split': read_split,
    'yaml': read_yaml,
    'picture': read_picture_size,
    'pixels': kitti.read_image,
}


def error_of(function):
    """Return the message of the project's error that a function raises, '' for none."""
    try:
        function()
    except (DataError, ConfigError) as err:
        return str(err)
    return ''


@pytest.mark.parametrize('name', READERS)
@fuzz
@given(
    data=st.binary(max_size=200)
    | TEXT.map(lambda words: ' '.join(words).encode('utf-8', 'replace'))
)
@example(data=b':\n')
@example(data=b'\xff\xd8\xff\xc0\x00')
@example(data=b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff')
def test_readers_raise_errors_of_their_kind_only(name, data, tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(data)
    message = error_of(lambda: READERS[name](path))
    assert '\n' not in message
    assert not message or str(path) in message or name == 'yaml'  # load_stages adds its path


@fuzz
@given(numbers=st.lists(st.lists(NUMBER, min_size=12, max_size=12), min_size=1, max_size=3))
def test_projections_of_any_numbers_are_judged(numbers):
    for row in numbers:
        P = np.array(row).reshape(3, 4)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            if not projection_fault(P):
                assert P[0, 0] >= 10
                picture_fault(P, 1242, 375)
                picture_warning(P, 1242, 375)


@fuzz
@given(rows=st.lists(st.lists(NUMBER, min_size=14, max_size=14), max_size=4))
def test_labels_of_any_numbers_are_judged(rows):
    """With a car of sound numbers beside them, which stays a target."""
    lines = [('a:0', label_line())]
    for number, row in enumerate(rows, 1):
        text = ' '.join(map(repr, row))
        try:
            kitti.parse_labels([('', f'Car {text}')])
        except DataError:
            continue
        lines.append((f'a:{number}', f'Car {text}'))
    labels = kitti.parse_labels(lines)
    size = LazyArray('', lambda: np.array([320, 96]))
    where = tuple(location for location, _ in lines)
    image = SourceImage('', '', LazyArray(), P2, labels, size_px=size, label_locations=where)
    table, sizes_px = stack_labels([image]), np.array([[320, 96]])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        reasons = why_left_out(table, DataConfig(), ('Car',))
        off = is_off_canvas(table, P2[None], sizes_px, InputSpec(), 'box')
        assert (reasons[0], off[0]) == ('', False) or 'max_objects' in reasons
        assert error_of(lambda: check_images([image]))[:2] in ('', 'a:')
        assert error_of(lambda: check_boxes([image], table, sizes_px))[:2] in ('', 'a:')
    taught = labels[(reasons == '') & ~off]
    assert np.isfinite(taught.center_m).all()
    assert (taught.size_hwl_m > 0).all()
    assert np.abs(taught.center_m).max(initial=0) <= 1000
