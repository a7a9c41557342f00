"""2D boxes against pictures and projections: contradictions are errors, real sets are not."""

import re

import numpy as np
import pytest
from kitti_scenes import HEIGHT, WIDTH, make_scenes
from label_sets import label_line, write_set

from stl_core.data.checks.box_agreement import check_boxes
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.frame_source import DataError, read_images
from stl_core.data.sources import kitti

PLACES = [(-3.0, 0.5, 14.0), (0.5, 0.5, 12.0), (3.0, 0.4, 18.0), (1.0, 0.6, 30.0)]


def check(root):
    images = read_images(kitti.KittiSource(kitti.folders_below(root, labelled=True)))
    sizes_px = np.array([image.size_px.read() for image in images])
    return check_boxes(images, stack_labels(images), sizes_px)


def texts(change=lambda box: box, places=PLACES, **fields):
    """Return label files of one object each, with a change to its 2D box."""
    lines = [label_line(center_m=place, **fields) for place in places]
    changed = []
    for line in lines:
        columns = line.split()
        columns[4:8] = [f'{value:.3f}' for value in change([float(each) for each in columns[4:8]])]
        changed.append(' '.join(columns) + '\n')
    return changed


def test_projected_boxes_agree(tmp_path):
    assert check(write_set(tmp_path / 'a', texts())) == ''
    assert check(make_scenes(tmp_path / 'b')) == ''


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda b: [each / 4 for each in b], 'boxes of a picture 0.25 times as large'),
        (lambda b: [b[0] + 60, b[1], b[2] + 60, b[3]], 'belong together'),
    ],
)
def test_boxes_that_are_not_the_projections_are_an_error(tmp_path, change, message):
    root = write_set(tmp_path / 'set', texts(change))
    with pytest.raises(DataError, match=rf'label_2/00000\d\.txt:1: the 2D box .*{message}'):
        check(root)


def test_boxes_as_x_y_w_h_are_named_where_they_seem_possible(tmp_path):
    """Of near people at the left; elsewhere such boxes have x1 < x0 or y1 < y0."""
    places = [(-3.7, 0.5, 5.0), (-3.75, 0.5, 5.1), (-3.6, 0.45, 5.0)]
    lines = texts(
        lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]],
        places,
        name='Pedestrian',
        size=(1.9, 0.6, 0.8),
        yaw=0.0,
    )
    root = write_set(tmp_path / 'set', lines)
    assert 'boxes given as x y w h? expected x0 y0 x1 y1' in check(root)


def test_labels_of_a_larger_picture_are_an_error(tmp_path):
    """Pictures at half the size: the principal point is still inside."""
    root = write_set(tmp_path / 'set', texts(), size=(WIDTH // 2 + 8, HEIGHT // 2))
    with pytest.raises(
        DataError, match=r'000000\.txt:1: the 2D box ends at .* outside the picture'
    ):
        check(root)


def test_boxes_somewhat_off_are_a_warning(tmp_path):
    root = write_set(tmp_path / 'set', texts(lambda b: [b[0] + 10, b[1] + 4, b[2] + 10, b[3] + 4]))
    assert re.search(r'txt:1: the 2D box .* median IoU of 4 objects is 0\.[3-6]', check(root))


def test_dont_care_far_and_impossible_objects_are_not_compared(tmp_path):
    odd = [
        'DontCare -1 -1 -10 1 2 30 40 -1 -1 -1 -1000 -1000 -1000 -10',
        label_line(size=(0.0, 0.0, 0.0), box=(1, 1, 9, 9)),
        label_line(center_m=(0.0, 0.5, -3.0), box=(1, 1, 9, 9)),
    ]
    assert check(write_set(tmp_path / 'set', ['\n'.join(odd), ''])) == ''
    assert check(write_set(tmp_path / 'empty', [''])) == ''


@pytest.mark.parametrize(
    'folder', ['training', 'extras/cropped_1224x370', 'extras/drive_0001_lowres']
)
def test_real_sets_agree(mono3d_data, folder):
    """Whole, cropped and reduced pictures of KITTI."""
    if not (mono3d_data / folder / 'label_2').is_dir():
        pytest.skip(f'{mono3d_data / folder} is missing')
    assert check(mono3d_data / folder) == ''
