"""The objects counted as taught are those the network is given, for every detector and format."""

import dataclasses

import numpy as np
import pytest
import torch
import toy_source
from kitti_scenes import HEIGHT, WIDTH
from label_rows import box, frame
from label_sets import label_line, write_set
from small_detectors import SMALL

from stl_core.data import augmentation, dataset
from stl_core.data.checks import taught
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.frame_source import LazyArray, SourceImage, read_images
from stl_core.data.sources import kitti
from stl_core.models import DETECTORS
from stl_core.tensors.batch import NetworkInput
from stl_core.training import config
from stl_core.training.run import object_counts

CLASSES = ('Car', 'Pedestrian')
#: A wide or high canvas shows the projected centres of all objects that have a part in view.
SHOWN_IN_PART = {('monodle', (WIDTH, HEIGHT)), ('monodle', (320, 160))}
NO_AUGMENT = augmentation.Config(flip=0.0)


def table_of(*frames):
    images = [
        SourceImage(str(i), '', LazyArray(), np.eye(3, 4), labels)
        for i, labels in enumerate(frames)
    ]
    return stack_labels(images)


def test_the_first_reason_that_applies_is_given():
    limits = dataset.DataConfig(
        min_depth_m=2.0,
        max_depth_m=65.0,
        min_height_px=25.0,
        max_occluded=2,
        max_truncated=0.5,
        max_objects=2,
    )
    labels = frame(
        box(),
        box('Van'),
        box('DontCare', center_m=[0, 0, -1000.0]),
        box(size_hwl_m=[0, 0, 0]),
        box(center_m=[0, 1, 70.0]),
        box(center_m=[0, 1, 2.0]),
        box(height_px=24.9),
        box(truncated=0.6),
        box(occluded=3),
        box(center_m=[0, 1, 65.0]),
        box('Pedestrian', center_m=[0, 1, 10.0], height_px=25.0, occluded=2, truncated=0.5),
        box('Van', occluded=3),
        box(center_m=[0, 1, 70.0], occluded=3),
    )
    expected = [
        *('', 'class', 'class', 'impossible', 'depth', 'depth', 'height', 'truncation'),
        *('occlusion', 'max_objects', '', 'class', 'depth'),
    ]
    reasons = taught.why_left_out(table_of(frame(), labels, frame()), limits, CLASSES)
    assert reasons.tolist() == expected


def test_the_nearest_objects_of_each_image_keep_the_slots():
    rng = np.random.default_rng(0)
    frames = [
        frame(
            *[box(center_m=[0, 1, float(rng.integers(5, 30))]) for _ in range(rng.integers(0, 9))]
        )
        for _ in range(40)
    ]
    limits = dataset.DataConfig(max_objects=3)
    table = table_of(*frames)
    reasons = table.split(taught.why_left_out(table, limits, CLASSES))
    for labels, why in zip(frames, reasons, strict=True):
        kept = np.flatnonzero(why == '')
        nearest = sorted(range(len(labels)), key=lambda i: labels.center_m[i, 2])[:3]
        assert kept.tolist() == sorted(nearest)


def crowd_text(rng):
    """Return a label file of objects in and around the picture, some of them not taught."""
    lines = []
    for _ in range(rng.integers(0, 7)):
        fields = {
            'name': str(rng.choice(['Car', 'Car', 'Pedestrian', 'Van', 'DontCare'])),
            'center_m': tuple(rng.uniform([-12, -1, 3], [12, 1, 40]).tolist()),
            'yaw': float(rng.uniform(-3, 3)) if rng.random() < 0.97 else 90.0,
            'occluded': int(rng.integers(0, 4)),
            'truncated': float(rng.choice([0, 0, 0.3, 0.3, 0.7, 25])),
        }
        lines.append(label_line(**fields))
    return ''.join(f'{line}\n' for line in lines)


def write_toy(root, images):
    root.mkdir()
    toy_source.write_drive(root / 'drive.npz', images)
    return toy_source.ToyConfig(str(root))


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """Return configurations of the same crowd in KITTI's format and in a toy format."""
    root, rng = tmp_path_factory.mktemp('crowd'), np.random.default_rng(7)
    kitti_root = write_set(root / 'kitti', [crowd_text(rng) for _ in range(60)])
    folders = kitti.folders_below(kitti_root, labelled=True)
    images = read_images(kitti.KittiSource(folders))
    return {'kitti': folders, 'toy': write_toy(root / 'toy', images)}


def build_run(name, source, canvas):
    options = {**SMALL[name], 'mean_size_hwl_m': None} if name == 'toy' else SMALL[name]
    built = config.build_train_config(
        {
            'classes': list(CLASSES),
            'detector': {'name': name, 'options': options},
            'input': {'width_px': canvas[0], 'height_px': canvas[1]},
        }
    )
    limits = dataset.DataConfig((source,), max_occluded=2, max_truncated=0.5, max_objects=3)
    return dataclasses.replace(built, train=dataclasses.replace(limits, augment=NO_AUGMENT))


@pytest.mark.parametrize(
    ('format_name', 'canvas'),
    [('kitti', (WIDTH, HEIGHT)), ('kitti', (416, 96)), ('toy', (320, 160))],
)
@pytest.mark.parametrize('name', ['monodle', 'monocon', 'monodetr'])
def test_counts_equal_what_the_network_is_given(sources, format_name, canvas, name):
    run = build_run(name, sources[format_name], canvas)
    frames = dataset.FrameDataset(run.train, run.input, run.classes, 0)
    report = object_counts.check_objects(run, frames, [frames.images], verbose=False)
    (counts,) = report['train']['sources']
    batch = dataset.collate([frames[0, i] for i in range(len(frames))], run.train.max_objects)
    torch.manual_seed(0)
    detector = DETECTORS[name].detector(run.detector.options, in_channels=3, num_classes=2).eval()
    image = torch.zeros(len(frames), 3, canvas[1], canvas[0])
    with torch.no_grad():
        outputs = detector(NetworkInput(image, batch.P))
        found = detector.predictions_at_targets(outputs, batch.targets).found
    targets = batch.targets
    visible = (targets.box_px[..., 2:] > targets.box_px[..., :2]).all(-1) & found & targets.valid
    by_class = [int((visible & (targets.class_id == i)).sum()) for i in range(2)]
    assert [counts['used'].get(each, 0) for each in CLASSES] == by_class
    assert min(by_class) > 5
    left = counts['left_out']
    assert int(targets.valid.sum()) == sum(by_class) + left['canvas']
    assert min(left[each] for each in ('impossible', 'truncation', 'occlusion')) > 0
    assert (left['canvas'] > 0) == (name == 'monodetr' or (name, canvas) in SHOWN_IN_PART)
    total = sum(n for each, n in counts['objects'].items() if each != 'DontCare')
    assert total == sum(by_class) + sum(left.values())
    assert counts['objects'] == {
        str(each): n for each, n in zip(*np.unique(names(frames), return_counts=True), strict=True)
    }


def names(frames):
    return np.concatenate([image.labels.name for image in frames.images])


def test_impossible_objects_are_no_targets(tmp_path):
    good, bad = label_line(), label_line(size=(0.0, 0.0, 0.0), box=(100, 20, 150, 60))
    root = write_set(tmp_path / 'set', [f'{good}\n{bad}\n'])
    limits = dataset.DataConfig((kitti.folders_below(root, labelled=True),), augment=NO_AUGMENT)
    frames = dataset.FrameDataset(limits, config.TrainConfig().input, CLASSES, 0)
    assert frames.left_out[0].tolist() == ['', 'impossible']
    assert len(frames[0, 0].objects) == 1
