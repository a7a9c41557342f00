"""The contract that every data set format in SOURCES fulfils."""

import dataclasses
import pickle

import numpy as np
import nuscenes_tables
import pytest
import toy_source
from small_stages import make_scenes_with_depth

from stl_core import geometry
from stl_core.data import dataset
from stl_core.data.frame_source import (
    DataError,
    LazyArray,
    SourceImage,
    read_images,
    require_labels,
)
from stl_core.data.sources import DEFAULT_FORMAT, SOURCES, kitti, open_source
from stl_core.training.config import build_train_config
from stl_core.training.config_builder import ConfigError
from stl_core.types import Labels


def write_toy(root):
    scenes = make_scenes_with_depth(root / 'kitti', frames=4)
    images = read_images(kitti.KittiSource(kitti.folders_below(scenes, labelled=True)))
    (root / 'toy').mkdir()
    toy_source.write_drive(root / 'toy/drive.npz', images)
    return root / 'toy'


#: Format -> function that writes a small labelled data set below a folder and returns its folder.
SMALL = {
    'kitti': lambda root: make_scenes_with_depth(root / 'scenes', frames=3),
    'toy': write_toy,
    'nuscenes': lambda root: nuscenes_tables.Database(root / 'nuscenes').write(),
}
every_format = pytest.mark.parametrize('name', SOURCES)


@pytest.fixture
def folder(name, tmp_path):
    return SMALL[name](tmp_path)


@pytest.fixture
def config(name, folder):
    return SOURCES[name].from_folder(folder, True)


@every_format
def test_sample_and_image_ids_are_unique_and_image_ids_name_files(name, config):
    source = open_source(config)
    samples = [source.read(each) for each in source.ids]
    assert [sample.id for sample in samples] == list(source.ids)
    assert len(set(source.ids)) == len(source.ids) > 1
    ids = [image.id for sample in samples for image in sample.images]
    assert len(set(ids)) == len(ids) >= len(samples)
    assert not any('/' in each for each in ids)
    for sample in samples:
        cameras = [image.camera for image in sample.images]
        assert len(set(cameras)) == len(cameras) >= 1


@every_format
def test_ids_select_samples_in_their_order(name, config):
    ids = tuple(open_source(config).ids)
    assert tuple(open_source(config, ids[1::-1]).ids) == ids[1::-1]


@every_format
def test_arrays_have_the_documented_shapes_and_labels_lie_on_their_boxes(name, config):
    labelled = 0
    for image in read_images(open_source(config)):
        pixels = image.pixels.read()
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert image.P.shape == (3, 4)
        assert image.P[0, 0] > 0
        if image.depth.exists:
            depth_m = image.depth.read()
            assert (depth_m.dtype, depth_m.shape) == (np.float32, pixels.shape[:2])
        if image.points.exists:
            assert image.points.read().shape[1] >= 3
        if image.vehicle_T_cam is not None:
            R = image.vehicle_T_cam[:3, :3]
            np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
            np.testing.assert_array_equal(image.vehicle_T_cam[3], [0, 0, 0, 1])
        centres, _ = geometry.project_points(image.labels.center_m, image.P)
        inside = (centres >= image.labels.box_px[:, :2]) & (centres <= image.labels.box_px[:, 2:])
        labelled += int(inside.all(1).sum())
        assert inside.all()
    assert labelled > 0


@every_format
def test_images_can_be_read_in_another_process(name, config):
    image = read_images(open_source(config))[-1]
    copied = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(copied.pixels.read(), image.pixels.read())
    assert image.pixels.location


@every_format
def test_labels_are_optional(name, folder):
    images = read_images(open_source(SOURCES[name].from_folder(folder, False)))
    assert images[0].pixels.read().size


@every_format
def test_a_configuration_is_rebuilt_from_its_plain_data(name, config):
    """Checkpoints hold the plain data; a run that resumes builds it again."""
    plain = dataclasses.asdict(config)
    assert plain.get('format', DEFAULT_FORMAT) == name
    for each in (plain, {**plain, 'format': name}):
        built = build_train_config({'train': {'sources': [each]}}).train.sources
        assert built == (config,)
        assert type(built[0]) is type(config)


@every_format
def test_unknown_keys_are_errors_that_list_the_known_keys(name, config):
    keys = sorted({'format', *dataclasses.asdict(config)})
    broken = {**dataclasses.asdict(config), 'format': name, 'imagse': ''}
    with pytest.raises(ConfigError) as raised:
        build_train_config({'val': {'sources': [broken]}})
    expected = f'val.sources[0].imagse: unknown key; known: {", ".join(keys)}'
    assert str(raised.value) == expected


@every_format
def test_a_missing_folder_is_an_error_that_names_it(name, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path / 'none')):
        open_source(SOURCES[name].from_folder(tmp_path / 'none', True))


def test_an_unknown_format_is_an_error_that_lists_the_known_formats():
    known = ', '.join(SOURCES)
    with pytest.raises(ConfigError) as raised:
        build_train_config({'train': {'sources': [{'format': 'nuscene', 'root': 'x'}]}})
    assert str(raised.value) == f"train.sources[0].format: 'nuscene' is unknown; known: {known}"
    with pytest.raises(TypeError, match=f'is not a configuration of {known}'):
        open_source('x')


def test_the_plain_data_of_kitti_folders_has_no_format():
    keys = {'image_2', 'calib', 'label_2', 'velodyne', 'depth_2', 'split'}
    assert dataclasses.asdict(kitti.KittiFolders('a', 'b')).keys() == keys


def test_sources_of_several_formats_are_concatenated(tmp_path):
    configs = [
        SOURCES[name].from_folder(write(tmp_path / name), True)
        for name, write in SMALL.items()
        if not (tmp_path / name).mkdir()
    ]
    images = dataset.list_frames(dataset.DataConfig(sources=tuple(configs)))
    assert [image.id for image in images[2:5]] == ['000002', 'drive-0-left', 'drive-0-right']


def test_an_absent_array_is_an_error_that_names_its_location():
    with pytest.raises(DataError, match=r'velodyne/7\.bin: not in this data set'):
        LazyArray('velodyne/7.bin').read()


def test_an_image_without_labels_is_an_error_that_names_its_file_or_id():
    labels = Labels.empty()
    images = [
        SourceImage('0', 'left', LazyArray('images/0.png'), np.eye(3, 4), labels),
        SourceImage('1', 'left', LazyArray('images/1.png'), np.eye(3, 4)),
        SourceImage('2', 'left', LazyArray(), np.eye(3, 4)),
    ]
    assert require_labels(images[:1]) == [labels]
    with pytest.raises(DataError, match=r'^images/1\.png: this image has no labels$'):
        require_labels(images)
    with pytest.raises(DataError, match=r'^2: this image has no labels$'):
        require_labels(images[2:])
