import dataclasses
import itertools

import pytest
import torch
from kitti_scenes import P2, make_scenes
from small_run import small_config

from stl_core.data import dataset
from stl_core.data.sources import kitti
from stl_core.preprocessing import InputSpec
from stl_core.tensors import batch


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


def test_batches_do_not_depend_on_workers_or_cached_images(scenes, tmp_path):
    run = small_config(scenes, tmp_path)
    epochs_per_setting = []
    for workers, keep_images in ((0, False), (2, True)):
        data = dataclasses.replace(run.train, keep_images=keep_images)
        frames = dataset.FrameDataset(data, run.input, run.classes, run.seed)
        sampler = dataset.ShuffledBatchSampler(len(frames), 2, run.seed)
        loader = dataset.make_dataloader(frames, sampler, workers)
        epochs = []
        for sampler.epoch in (0, 1):
            epochs.append(list(loader))
        epochs_per_setting.append(epochs)
    for one, two in zip(epochs_per_setting[0], epochs_per_setting[1], strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.ids == b.ids
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.targets.center_px, b.targets.center_px)
    first = torch.cat([batch.image for batch in epochs_per_setting[0][0]]).float().mean((1, 2, 3))
    second = torch.cat([batch.image for batch in epochs_per_setting[0][1]]).float().mean((1, 2, 3))
    assert not torch.allclose(
        first.sort()[0], second.sort()[0]
    )  # other augmentations in every epoch


def test_a_remainder_of_one_image_joins_another_batch():
    assert [len(b) for b in dataset.ShuffledBatchSampler(5, 2, 0)] == [2, 3]
    assert [len(b) for b in dataset.ShuffledBatchSampler(6, 4, 0)] == [3, 3]
    assert [len(b) for b in dataset.ShuffledBatchSampler(1, 4, 0)] == [1]
    assert [len(b) for b in dataset.ShuffledBatchSampler(3, 1, 0)] == [1, 1, 1]
    indices = [index for batch in dataset.ShuffledBatchSampler(9, 4, 0) for _, index in batch]
    assert sorted(indices) == list(range(9))


def test_batch_sizes_are_nearly_equal_and_processes_split_each_batch():
    for frames in range(2, 40):
        for size in range(2, 9):
            batches = list(dataset.ShuffledBatchSampler(frames, size, 3))
            lengths = [len(batch) for batch in batches]
            assert max(lengths) - min(lengths) <= 1
            assert max(lengths) <= max(size, 3)
            assert min(lengths) >= 2
            parts = [list(dataset.ShuffledBatchSampler(frames, size, 3, (r, 3))) for r in range(3)]
            joined = [list(itertools.chain(*each)) for each in zip(*parts, strict=True)]
            assert joined == batches


def test_a_batch_can_be_pinned_sliced_and_mapped(scenes, tmp_path):
    run = small_config(scenes, tmp_path)
    frames = dataset.FrameDataset(run.train, run.input, run.classes, run.seed)
    whole = dataset.collate([frames[0, index] for index in range(5)], 50)
    part = batch.slice_batch(whole, slice(1, 3))
    assert part.ids == whole.ids[1:3]
    assert torch.equal(part.image, whole.image[1:3])
    assert torch.equal(part.targets.center_px, whole.targets.center_px[1:3])
    doubled = batch.map_tensors(whole, lambda tensor: tensor * 2)
    assert torch.equal(doubled.targets.depth_m, whole.targets.depth_m * 2)
    assert callable(whole.pin_memory)  # without this method DataLoader does not pin batches


def test_a_source_can_override_the_split(scenes, tmp_path):
    folders = {name: str(scenes / name) for name in ('image_2', 'calib', 'label_2')}
    ids = kitti.KittiSource(kitti.KittiFolders(**folders)).ids
    (tmp_path / 'source.txt').write_text(f'{ids[3]} {ids[1]}')
    (tmp_path / 'all.txt').write_text(ids[0])
    source_with_split = kitti.KittiFolders(**folders, split=str(tmp_path / 'source.txt'))
    config = dataset.DataConfig(
        (source_with_split, kitti.KittiFolders(**folders)), split=str(tmp_path / 'all.txt')
    )
    assert [image.id for image in dataset.list_frames(config)] == [ids[3], ids[1], ids[0]]


def test_median_focal_px_is_scaled_to_the_canvas(scenes, tmp_path):
    images = dataset.list_frames(small_config(scenes, tmp_path).train)
    assert dataset.median_focal_px(images, InputSpec(160, 64)) == pytest.approx(P2[0, 0] / 2)
