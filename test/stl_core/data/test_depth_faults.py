"""Wrong depth of some objects: which, how, and that it is the same in every epoch."""

import dataclasses

import numpy as np
import pytest
from small_stages import FOLDERS, make_scenes_with_depth

from stl_core.data import augmentation, dataset, depth_faults
from stl_core.data.depth_faults import DISPLACEMENT, KEPT_PIXELS, DepthFaults
from stl_core.preprocessing import InputSpec
from stl_core.training import config, resolved_config
from stl_core.training.config_builder import ConfigError
from stl_core.types import ImageObjects

#: Five frames of 320 x 96 pixels, which is the canvas: no pixel is interpolated.
SPEC = InputSpec(320, 96)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), frames=5)


def frames_of(scenes, fraction, given='', seed=1, **augment):
    options = {'flip': 0.0, **augment, 'wrong_depth': fraction}
    data = {'sources': [{k: str(scenes / k) for k in FOLDERS}], 'augment': options}
    built = config.build_train_config({'train': data, 'val': data}).train
    return dataset.FrameDataset(
        built, SPEC, ('Car', 'Pedestrian', 'Cyclist'), seed, dataset.load_image_and_depth, given
    )


def objects_at(boxes, depths):
    count = len(boxes)
    columns = {
        field.name: np.zeros((count, *ImageObjects.FIELD_SHAPES.get(field.name, ())))
        for field in dataclasses.fields(ImageObjects)
    }
    columns |= {'box_px': np.array(boxes, float), 'depth_m': np.array(depths, float)}
    return ImageObjects(**columns)


def test_half_of_the_objects_are_wrong_half_of_these_displaced():
    faults = depth_faults.draw_faults(0.5, 3, '000001', np.arange(20000))
    displaced = faults.factor != 1
    assert faults.thinned.mean() == pytest.approx(0.25, abs=0.015)
    assert displaced.mean() == pytest.approx(0.25, abs=0.015)
    assert not (faults.thinned & displaced).any()
    size = np.abs(faults.factor[displaced] - 1)
    low, high = DISPLACEMENT
    assert (size.min() >= low, size.max() <= high) == (True, True)
    assert size.mean() == pytest.approx((low + high) / 2, abs=0.005)
    assert (faults.factor[displaced] > 1).mean() == pytest.approx(0.5, abs=0.03)


def test_faults_belong_to_seed_image_and_label():
    def draw(seed=3, name='a', rows=(0, 1, 2, 3, 4, 5, 6, 7)):
        return depth_faults.draw_faults(0.5, seed, name, np.array(rows)).given_factor

    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(seed=4))
    assert not np.array_equal(draw(), draw(name='b'))
    assert np.array_equal(draw(rows=(1, 4, 7)), draw()[[1, 4, 7]])
    assert draw(rows=()).shape == (0,)
    # a greater fraction adds faults and keeps those of a smaller one
    half = depth_faults.draw_faults(0.5, 3, 'a', np.arange(50)).given_factor
    whole = depth_faults.draw_faults(1.0, 3, 'a', np.arange(50)).given_factor
    assert np.array_equal(half[half != 1], whole[half != 1])
    assert (whole != 1).all()
    assert (depth_faults.draw_faults(0.0, 3, 'a', np.arange(50)).given_factor == 1).all()


def test_a_map_is_displaced_and_thinned_in_the_boxes_of_objects():
    depth_m = np.full((40, 120), 20.0, np.float32)
    depth_m[::7] = 0
    boxes = [[0, 0, 39, 39], [40, 0, 79, 39], [60, 0, 99, 39]]
    objects = objects_at(boxes, [20.0, 25.0, 30.0])  # the second hides a part of the third
    faults = DepthFaults(np.array([1.0, 1.2, 1.0]), np.array([False, False, True]))
    wrong = depth_faults.apply_faults(depth_m, objects, faults, 1, 'a')
    assert wrong.dtype == np.float32
    np.testing.assert_array_equal(wrong[:, :40], depth_m[:, :40])
    np.testing.assert_allclose(wrong[:, 40:80], 1.2 * depth_m[:, 40:80])
    np.testing.assert_array_equal(wrong[:, 100:], depth_m[:, 100:])
    rest = wrong[:, 80:100]
    assert set(np.unique(rest)) == {0.0, 20.0}
    share = (rest > 0).sum() / (depth_m[:, 80:100] > 0).sum()
    assert share == pytest.approx(KEPT_PIXELS, abs=0.03)
    assert (depth_m[1] == 20).all()  # not in place
    assert np.array_equal(wrong, depth_faults.apply_faults(depth_m, objects, faults, 1, 'a'))


@pytest.mark.parametrize('given', ['', 'scan', 'objects'])
def test_samples_are_wrong_alike_in_every_epoch_and_only_in_depth(scenes, given):
    clean, wrong = (frames_of(scenes, fraction, given) for fraction in (None, 1.0))
    for index in range(5):
        right, *epochs = (clean[0, index], wrong[0, index], wrong[3, index])
        name = 'given_depth_m' if given else 'depth_m'
        maps = [getattr(each, name) for each in (right, *epochs)]
        np.testing.assert_array_equal(maps[1], maps[2])
        assert not np.array_equal(maps[0], maps[1])
        np.testing.assert_array_equal(epochs[0].image, right.image)
        np.testing.assert_array_equal(epochs[0].objects.depth_m, right.objects.depth_m)


def test_given_depth_of_objects_and_of_scans_have_the_same_faults(scenes):
    """The depth maps of these scenes hold the objects' own depth, in their boxes alone."""
    pairs = [
        [frames_of(scenes, each, given) for each in (None, 0.5)] for given in ('scan', 'objects')
    ]
    displaced = thinned = 0
    for index in range(5):
        for right, wrong in pairs:
            right_m, sample = right[0, index].given_depth_m, wrong[0, index]
            factor = wrong._faults[index].given_factor
            for depth_m, ratio in zip(sample.objects.depth_m, factor, strict=True):
                cells = np.isclose(right_m, depth_m, rtol=2e-3)
                if not cells.any():
                    continue  # hidden
                found = np.median(sample.given_depth_m[cells])
                assert found == pytest.approx(depth_m * ratio, rel=2e-3)
                displaced += ratio not in (0, 1)
                thinned += ratio == 0
    assert displaced > 0
    assert thinned > 0


def test_augmentation_moves_wrong_depth_with_its_objects(scenes):
    """A window removes objects, and the faults of the others stay theirs."""
    frames = frames_of(scenes, 1.0, 'objects', window=1.0, window_px=(120, 96))
    removed = 0
    for index in range(5):
        whole, faults = frames._objects[index], frames._faults[index]
        for epoch in range(4):
            sample = frames[epoch, index]
            removed += len(whole) - len(sample.objects)
            allowed = [0.0]
            for depth_m in sample.objects.depth_m:
                (row,) = np.flatnonzero(np.isclose(whole.center_m[:, 2], depth_m))
                allowed.append(depth_m * faults.given_factor[row])
            found = np.unique(sample.given_depth_m)
            assert np.isclose(found[:, None], allowed, rtol=1e-5).any(1).all()
    assert removed > 0


def test_wrong_depth_needs_a_network_that_uses_depth(scenes):
    data = {
        'sources': [{k: str(scenes / k) for k in FOLDERS}],
        'augment': {'wrong_depth': 0.5},
    }
    built = config.build_train_config({'train': data, 'val': data})
    with pytest.raises(ConfigError, match=r'train.augment.wrong_depth: no network of this run'):
        resolved_config.resolve_config(built)
    for spec in ({'depth': {}}, {'given_depth': 'objects'}):
        fine = config.build_train_config({'train': data, 'val': data, 'input': spec})
        resolved_config._check_wrong_depth(fine, None)
    with pytest.raises(ValueError, match=r'wrong_depth: expected 0 to 1, got 1.5'):
        augmentation.Config(wrong_depth=1.5)
