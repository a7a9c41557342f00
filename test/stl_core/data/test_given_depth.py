import dataclasses
import types

import numpy as np
import pytest
import torch
from small_stages import FOLDERS, make_scenes_with_depth

from stl_core.data import augmentation, dataset, given_depth
from stl_core.data.frame_source import DataError, read_images
from stl_core.data.sources import SOURCES, kitti
from stl_core.preprocessing import InputSpec, preprocess_given_depth
from stl_core.types import ImageObjects

CLASSES = ('Car',)
#: Two real frames with ten cars.
IDS = ('000007', '000008')
NOISE = {'given_drop': 0.4, 'given_depth_jitter': 0.1, 'given_edge_jitter': 0.1}


def some_objects(box_px, depth_m):
    count = len(depth_m)
    return ImageObjects(
        class_id=np.zeros(count),
        score=np.ones(count),
        center_px=np.zeros((count, 2)),
        depth_m=np.array(depth_m, float),
        size_hwl_m=np.ones((count, 3)),
        alpha=np.zeros(count),
        box_px=np.array(box_px, float).reshape(-1, 4),
        depth_log_sigma=np.zeros(count),
    )


def noise(**strengths):
    return types.SimpleNamespace(**{**dict.fromkeys(NOISE), **strengths})


def quarter(box):
    """Return the middle of a box, a quarter of its width and height."""
    x0, y0, x1, y1 = box
    return (
        (5 * x0 + 3 * x1) / 8,
        (5 * y0 + 3 * y1) / 8,
        (3 * x0 + 5 * x1) / 8,
        (3 * y0 + 5 * y1) / 8,
    )


def brute_force(objects, size_px):
    """Ask of each pixel, a square of one pixel around its centre, which boxes it overlaps."""
    painted = np.zeros(size_px)
    for v in range(size_px[0]):
        for u in range(size_px[1]):
            inside, in_middle = (
                [
                    z
                    for (x0, y0, x1, y1), z in zip(boxes, objects.depth_m, strict=True)
                    if x1 > x0 and y1 > y0 and z > 0
                    if u - 0.5 <= x1 and u + 0.5 > x0 and v - 0.5 <= y1 and v + 0.5 > y0
                ]
                for boxes in (objects.box_px, [quarter(box) for box in objects.box_px])
            )
            painted[v, u] = min(in_middle or inside, default=0)
    return painted


def test_a_box_is_painted_with_the_depth_of_its_centre_and_the_nearest_wins():
    objects = some_objects([[2, 1, 5, 3], [5, 2, 8, 4]], [20.0, 10.0])
    painted = given_depth.paint_object_depth(objects, (6, 10))
    wanted = np.zeros((6, 10))
    wanted[1:4, 2:6] = 20
    wanted[2:5, 5:9] = 10
    np.testing.assert_array_equal(painted, wanted)
    assert painted.dtype == np.float32
    reverse = given_depth.paint_object_depth(objects[[1, 0]], (6, 10))
    np.testing.assert_array_equal(reverse, wanted)


def test_the_middle_of_a_hidden_box_has_the_depth_of_its_own_object():
    objects = some_objects([[0, 0, 16, 16], [2, 2, 14, 14]], [10.0, 20.0])
    painted = given_depth.paint_object_depth(objects, (17, 17))
    assert painted[8, 8] == 10  # the middles overlap: the nearest wins
    aside = some_objects([[0, 0, 16, 16], [8, 0, 16, 16]], [10.0, 20.0])
    painted = given_depth.paint_object_depth(aside, (17, 17))
    assert (painted[8, 12], painted[8, 9], painted[1, 12]) == (20, 10, 10)


def test_painting_equals_a_test_of_every_pixel():
    rng = np.random.default_rng(3)
    for _ in range(20):
        corners = np.sort(rng.uniform([-8, -6], [40, 30], (9, 2, 2)), axis=1)
        objects = some_objects(corners.reshape(-1, 4), rng.uniform(-2, 60, 9))
        painted = given_depth.paint_object_depth(objects, (20, 30))
        np.testing.assert_allclose(painted, brute_force(objects, (20, 30)), rtol=1e-6)


@pytest.mark.parametrize('count', [0, 1, 200])
def test_any_number_of_objects_is_painted(count):
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 20, (count, 2))
    objects = some_objects(np.concatenate([low, low + 0.2], 1), rng.uniform(5, 60, count))
    painted = given_depth.paint_object_depth(objects, (24, 24))
    assert (painted > 0).any() == (count > 0)  # also boxes smaller than a pixel


def test_a_scan_is_kept_in_the_boxes_only_and_is_scaled_by_the_nearest_object():
    objects = some_objects([[2, 1, 5, 3], [5, 2, 8, 4]], [20.0, 10.0])
    depth_m = np.random.default_rng(0).uniform(1, 50, (6, 10)).astype(np.float32)
    depth_m[2, 3] = 0
    boxes = given_depth.paint_object_depth(objects, (6, 10))
    kept = given_depth.scan_in_boxes(depth_m, objects)
    np.testing.assert_array_equal(kept, np.where(boxes > 0, depth_m, 0))
    scaled = given_depth.scan_in_boxes(depth_m, objects, np.array([2.0, 3.0]))
    np.testing.assert_allclose(scaled, kept * np.where(boxes == 10, 3, 2), rtol=1e-6)
    with pytest.raises(ValueError, match='needs a depth map'):
        given_depth.give_depth('scan', objects, (6, 10))


def test_corruption_has_the_strengths_that_are_asked_for():
    objects = some_objects(np.tile([100.0, 100, 140, 120], (4000, 1)), np.full(4000, 30.0))
    same, factor = given_depth.corrupt_objects(objects, noise(), (1, 2, 3))
    np.testing.assert_array_equal(same.box_px, objects.box_px)
    np.testing.assert_array_equal(same.depth_m, objects.depth_m)
    assert (factor == 1).all()
    dropped, _ = given_depth.corrupt_objects(objects, noise(given_drop=0.3), (1, 2, 3))
    assert abs(len(dropped) / 4000 - 0.7) < 0.03
    jittered, factor = given_depth.corrupt_objects(
        objects, noise(given_depth_jitter=0.05), (1, 2, 3)
    )
    np.testing.assert_allclose(jittered.depth_m, 30 * factor)
    assert abs(np.log(factor).std() - 0.05) < 0.003
    assert abs(np.log(factor).mean()) < 0.003
    edges, _ = given_depth.corrupt_objects(objects, noise(given_edge_jitter=0.1), (1, 2, 3))
    np.testing.assert_allclose((edges.box_px - objects.box_px).std(0), [4, 2, 4, 2], rtol=0.05)


def test_each_strength_keeps_its_random_numbers_whatever_the_others_are():
    objects = some_objects(np.tile([10.0, 10, 30, 20], (50, 1)), np.arange(50) + 5.0)
    both, _ = given_depth.corrupt_objects(objects, noise(**NOISE), (1, 2, 3))
    moved, _ = given_depth.corrupt_objects(
        objects, noise(**{**NOISE, 'given_drop': 0.0}), (1, 2, 3)
    )
    assert 0 < len(both) < 50
    assert set(both.depth_m) <= set(moved.depth_m)
    other, _ = given_depth.corrupt_objects(objects, noise(**NOISE), (1, 3, 3))
    assert set(other.depth_m) != set(both.depth_m)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), 5)


def make_frames(scenes, kind, **augment):
    config = dataset.DataConfig(
        (kitti.KittiFolders(**{name: str(scenes / name) for name in FOLDERS}),),
        augment=augmentation.Config(**augment),
    )
    loader = dataset.load_image_and_depth
    return dataset.FrameDataset(config, InputSpec(160, 64), CLASSES, 7, loader, kind)


@pytest.mark.parametrize('kind', ['objects', 'scan'])
def test_given_depth_follows_the_targets_through_flip_zoom_and_shift(scenes, kind):
    frames = make_frames(scenes, kind, flip=0.5, crop=1.0, scale=0.3, shift=0.1)
    for epoch in range(4):
        for index in range(5):
            sample = frames[epoch, index]
            painted = brute_force(sample.objects, (64, 160))
            if kind == 'objects':
                np.testing.assert_allclose(sample.given_depth_m, painted, rtol=1e-6)
            else:  # the depth maps hold the depths of the centres, so that both kinds agree inside
                wanted = np.where(painted > 0, sample.depth_m, 0)
                np.testing.assert_array_equal(sample.given_depth_m, wanted)


def test_other_augmentation_does_not_depend_on_the_corruption(scenes):
    augment = {'flip': 0.5, 'crop': 0.5, 'colour': 0.3, 'hue': 20.0, 'swap': 0.5}
    plain, given = make_frames(scenes, '', **augment), make_frames(scenes, 'objects', **augment)
    corrupted = make_frames(scenes, 'objects', **augment, **NOISE)
    differ = 0
    for key in [(epoch, index) for epoch in range(2) for index in range(5)]:
        a, b, c = plain[key], given[key], corrupted[key]
        for other in (b, c):
            np.testing.assert_array_equal(a.image, other.image)
            np.testing.assert_array_equal(a.P, other.P)
            np.testing.assert_array_equal(a.objects.box_px, other.objects.box_px)
        assert a.given_depth_m is None
        differ += not np.array_equal(b.given_depth_m, c.given_depth_m)
    assert differ >= 8


def test_given_depth_does_not_depend_on_workers_or_the_first_epoch(scenes):
    frames = make_frames(scenes, 'objects', **NOISE)
    batches = {}
    for workers, epochs in ((0, (0, 1)), (2, (0, 1)), (0, (1,))):
        sampler = dataset.ShuffledBatchSampler(len(frames), 2, 7)
        loader = dataset.make_dataloader(frames, sampler, workers)
        for sampler.epoch in epochs:
            given = torch.cat([batch.given_depth_m for batch in loader])
            assert torch.equal(given, batches.setdefault(sampler.epoch, given))
    assert not torch.equal(batches[0], batches[1])


def test_only_taught_objects_give_depth(scenes):
    frames = make_frames(scenes, 'objects', flip=0.0)
    near = dataclasses.replace(frames.config, max_depth_m=12.0)
    spec = InputSpec(160, 64)
    limited = dataset.FrameDataset(near, spec, CLASSES, 7, given='objects')
    seen = np.concatenate([limited[0, i].given_depth_m.ravel() for i in range(5)])
    assert 0 < seen.max() <= 12 < max(frames[0, i].given_depth_m.max() for i in range(5))


def test_a_frame_of_a_data_set_gives_the_depth_of_the_batch(scenes):
    for kind in ('objects', 'scan'):
        frames = make_frames(scenes, kind, flip=0.0)
        image, limits = frames.images[2], given_depth.GivenLimits.of(frames.config)
        read = given_depth.lazy_given_depth(image, kind, CLASSES, limits).read()
        assert (read.shape, read.dtype) == ((96, 320), np.float32)
        frames.spec = InputSpec(384, 128)  # 1.2 times the image, and margins above and below
        canvas = preprocess_given_depth(read, image.pixels.read(), frames.spec)
        painted = frames[0, 2].given_depth_m
        assert (canvas != painted).mean() < 0.01  # edges of boxes, by a pixel
        frames.spec = InputSpec(320, 96)
        np.testing.assert_array_equal(frames[0, 2].given_depth_m, read)


def test_frames_without_labels_give_no_depth(scenes):
    frames = make_frames(scenes, 'objects')
    limits = given_depth.GivenLimits.of(frames.config)
    unlabelled = dataclasses.replace(frames.images[0], labels=None)
    with pytest.raises(DataError, match='no labels, from which the model is given depth'):
        given_depth.lazy_given_depth(unlabelled, 'objects', CLASSES, limits).read()


def test_a_map_of_another_frame_is_cut_or_extended():
    fitted = given_depth.fit_size(np.ones((2, 9), np.float32), (4, 3))
    assert fitted.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert not given_depth.fit_size(given_depth.no_given_depth(), (4, 3)).any()


def test_a_scan_shows_surfaces_that_are_nearer_than_centres_on_real_frames(mono3d_data):
    offsets = []
    source = kitti.KittiSource(SOURCES['kitti'].from_folder(mono3d_data / 'training', True), IDS)
    for image in read_images(source):
        limits = given_depth.GivenLimits()
        scan, painted = (
            given_depth.lazy_given_depth(image, kind, CLASSES, limits).read()
            for kind in ('scan', 'objects')
        )
        for depth_m in np.unique(painted[painted > 0]):
            seen = scan[(painted == depth_m) & (scan > 0)]
            offsets.append(np.median(seen) - depth_m)
    assert len(offsets) >= 5
    assert -2.0 < np.median(offsets) < -0.5  # half a car is 0.8 to 2 m; docs/distillation.md
