"""
Errors of encoding and decoding: ground truth as perfect network outputs, decoded and lifted again.

python bench/roundtrip.py [DATA] [--width 1280 --height 384]: no network runs. Labels are projected
into the image, drawn as MonoDLE heads, decoded from the peaks and lifted to 3D. Prints the
greatest errors over all labelled objects whose projected centre is in the image, and the 3D AP40
of the result.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

from stl_core.data import augmentation, dataset
from stl_core.data.sources import kitti
from stl_core.evaluation import average_precision
from stl_core.geometry import project_points, wrap_angle
from stl_core.inference import model_file
from stl_core.inference.predictor import Predictor
from stl_core.models import monodle
from stl_core.models.centernet.heads import STRIDE, decode_heads
from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import as_image_objects
from stl_core.types import Labels


def perfect_runner(targets):
    """Return a runner for the Predictor that outputs the perfect heads of the targets."""
    config = monodle.MonoDLEConfig()
    mean = torch.tensor(config.mean_size_hwl_m)

    def forward(canvases, P):
        h, w = (side // STRIDE for side in canvases.shape[1:3])
        heads = monodle.perfect_heads(targets, mean, config.heading_bins, h, w)
        decoded = decode_heads(heads, mean, config.heading_bins, config.max_objects)
        return [as_image_objects(decoded, 0)]

    return forward


def round_trip(training, spec):
    """Yield for each frame its labels, the decoded labels, P, image width and image height."""
    source = kitti.KittiFolders(
        *(str(training / name) for name in ('image_2', 'calib', 'label_2'))
    )
    config = dataset.DataConfig(
        sources=(source,), max_depth_m=1e3, augment=augmentation.Config(flip=0.0)
    )
    frames = dataset.FrameDataset(config, spec, kitti.CLASSES, seed=0)
    model_spec = model_file.ModelSpec(kitti.CLASSES, spec, 'monodle')
    for index, frame in enumerate(frames.images):
        batch = dataset.collate([frames[0, index]], config.max_objects)
        predictor = Predictor(perfect_runner(batch.targets), model_spec, min_score=0.5)
        image = frame.pixels.read()
        (objects,) = predictor([image], [frame.P])
        decoded = kitti.to_labels(objects, kitti.CLASSES)
        yield frame.labels, decoded, frame.P, image.shape[1], image.shape[0]


def label_errors(labels: Labels, decoded: Labels, P, width, height):
    """Return (N, 3) errors, m m deg, of each object in the image to its nearest decoded one."""
    annotated = labels[np.isin(labels.name, kitti.CLASSES)]
    pixels, depth = project_points(annotated.center_m, P)
    visible = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height) & (depth > 0)
    rows = []
    for i in np.flatnonzero(visible):
        of_class = decoded[decoded.name == annotated.name[i]]
        distance = np.linalg.norm(of_class.center_m - annotated.center_m[i], axis=1)
        if not len(distance):
            rows.append([np.inf] * 3)
            continue
        j = int(distance.argmin())
        size = np.abs(of_class.size_hwl_m[j] - annotated.size_hwl_m[i]).max()
        yaw = abs(np.degrees(wrap_angle(of_class.rotation_y[j] - annotated.rotation_y[i])))
        rows.append([float(distance[j]), float(size), float(yaw)])
    return np.array(rows).reshape(-1, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    default = os.environ.get('MONO3D_DATA', '../shared/data')
    parser.add_argument('data', nargs='?', default=default, type=Path)
    parser.add_argument('--width', type=int, default=1280)
    parser.add_argument('--height', type=int, default=384)
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args()
    trips = list(round_trip(args.data / 'training', InputSpec(args.width, args.height)))
    errors = np.concatenate([label_errors(*trip) for trip in trips])
    print(f'{len(trips)} frames, {len(errors)} labelled objects with their centre in the image')
    for name, unit, values in zip(
        ('centre', 'size', 'yaw'), ('m', 'm', 'deg'), errors.T, strict=True
    ):
        print(
            f'{name:<7} worst {values.max():.6f} {unit:<4} median {np.median(values):.6f} {unit}'
        )
    result = average_precision.evaluate_detections(
        [trip[0] for trip in trips], [trip[1] for trip in trips]
    )
    ap = {n: each.by_difficulty('3d', 'AP40', 'strict') for n, each in result.by_class.items()}
    for name, (easy, moderate, hard) in ap.items():
        print(f'{name:<11} 3D AP40 {easy:.1f}/{moderate:.1f}/{hard:.1f}')
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    'frames': len(trips),
                    'objects': len(errors),
                    'worst_center_m': float(errors[:, 0].max()),
                    'worst_size_m': float(errors[:, 1].max()),
                    'worst_yaw_deg': float(errors[:, 2].max()),
                    'ap40_3d': ap,
                }
            )
        )


if __name__ == '__main__':
    main()
