"""The usual split of KITTI: published sizes, membership of real frames, files that are written."""

import hashlib
import logging

import pytest

from stl_core.cli import main
from stl_core.data.frame_source import DataError, read_split
from stl_core.data.sources.kitti_splits import kitti_split, write_splits


def test_the_split_has_the_published_sizes_and_no_frame_twice():
    train, val, trainval = map(kitti_split, ('train', 'val', 'trainval'))
    assert (len(train), len(val), len(trainval)) == (3712, 3769, 7481)
    assert len(kitti_split('test')) == 7518
    assert sorted(train + val) == list(trainval)
    with pytest.raises(DataError, match='half: no split of KITTI; known: train, val'):
        kitti_split('half')


@pytest.mark.parametrize(('name', 'digest'), [('train', 'e85ce0142be1'), ('val', '6e2394d97c86')])
def test_the_ids_are_those_of_the_public_programs(name, digest):
    """Digest of the sorted list of ids that the programs of MonoDLE and MonoCon ship."""
    text = ''.join(f'{frame_id}\n' for frame_id in sorted(kitti_split(name)))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == digest


def test_real_frames_are_in_the_split_that_they_are_known_to_be_in(mono3d_data):
    for name in ('train', 'val'):
        assert set(read_split(mono3d_data / f'ImageSets/{name}.txt')) <= set(kitti_split(name))


def make_images(root, folder, ids):
    (root / folder / 'image_2').mkdir(parents=True)
    for frame_id in ids:
        (root / folder / f'image_2/{frame_id}.png').touch()


def test_the_command_writes_lists_and_counts_missing_images(tmp_path, caplog):
    make_images(tmp_path, 'training', ['000000', '000001'])
    with caplog.at_level(logging.INFO):
        main.main(['kitti-splits', str(tmp_path)])
    assert read_split(tmp_path / 'ImageSets/val.txt') == kitti_split('val')
    assert not (tmp_path / 'ImageSets/test.txt').exists()
    assert 'ImageSets/train.txt: 3712 frames' in caplog.text
    assert '3711 of them have no image in' in caplog.text
    make_images(tmp_path, 'testing', kitti_split('test'))
    assert write_splits(tmp_path)['test'] == (7518, 0)


def test_other_lists_and_frames_are_not_overwritten_or_mixed(tmp_path):
    with pytest.raises(DataError, match='training/image_2: no images'):
        write_splits(tmp_path)
    make_images(tmp_path, 'training', ['000000', 'frame7'])
    with pytest.raises(DataError, match='frame7: no frame of KITTI, whose ids end with 007480'):
        write_splits(tmp_path)
    (tmp_path / 'training/image_2/frame7.png').unlink()
    (tmp_path / 'ImageSets').mkdir()
    (tmp_path / 'ImageSets/trainval.txt').write_text('000001\n')
    with pytest.raises(DataError, match=r"trainval.txt: has other ids than KITTI's trainval"):
        write_splits(tmp_path)
    assert not (tmp_path / 'ImageSets/train.txt').exists()
