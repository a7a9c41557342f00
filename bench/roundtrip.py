"""
Ground truth as a perfect network would answer it, read and lifted: the errors of the chain itself.

python bench/roundtrip.py [DATA] [--width 1280 --height 384]: no network runs. Labels are lowered
into the image, drawn as MonoDLE heads, read as peaks and lifted again. Prints the worst errors
over every labelled object whose projected centre is in the image, and the 3D AP40 of the result.
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


def perfect_run(targets):
    """Make a `run` for the Predictor that answers with the ideal heads of the given targets."""
    config = monodle.MonoDLEConfig()
    mean = torch.tensor(config.mean_size_hwl_m)

    def run(canvases, P):
        h, w = (side // STRIDE for side in canvases.shape[1:3])
        heads = monodle.perfect_heads(targets, mean, config.heading_bins, h, w)
        found = decode_heads(heads, mean, config.heading_bins, config.max_objects)
        return [as_image_objects(found, 0)]

    return run


def round_trip(training, spec):
    """Return for each frame its labels, what came back of them, and the image's size."""
    source = kitti.KittiFolders(
        *(str(training / name) for name in ('image_2', 'calib', 'label_2'))
    )
    config = dataset.DataConfig(
        sources=(source,), max_depth_m=1e3, augment=augmentation.Config(flip=0.0)
    )
    frames = dataset.FrameDataset(config, spec, kitti.CLASSES, seed=0)
    student = model_file.ModelSpec(kitti.CLASSES, spec, 'monodle')
    for index, files in enumerate(frames.files):
        batch = dataset.collate([frames[0, index]], config.max_objects)
        predictor = Predictor(perfect_run(batch.targets), student, min_score=0.5)
        image, P = kitti.read_image(files.image_2), kitti.read_calib(files.calib).P2
        (objects,) = predictor([image], [P])
        found = kitti.to_labels(objects, kitti.CLASSES)
        yield kitti.read_labels(files.label_2), found, P, image.shape[1], image.shape[0]


def errors(truth: Labels, found: Labels, P, width, height):
    """Match each labelled object in the image with the nearest found of its class -> (N, 3)."""
    known = truth[np.isin(truth.name, kitti.CLASSES)]
    pixels, depth = project_points(known.center_m, P)
    seen = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height) & (depth > 0)
    rows = []
    for i in np.flatnonzero(seen):
        same = found[found.name == known.name[i]]
        away = np.linalg.norm(same.center_m - known.center_m[i], axis=1)
        if not len(away):
            rows.append([np.inf] * 3)
            continue
        j = int(away.argmin())
        size = np.abs(same.size_hwl_m[j] - known.size_hwl_m[i]).max()
        yaw = abs(np.degrees(wrap_angle(same.rotation_y[j] - known.rotation_y[i])))
        rows.append([float(away[j]), float(size), float(yaw)])
    return np.array(rows).reshape(-1, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    default = os.environ.get('MONO3D_DATA', '../shared/data')
    parser.add_argument('data', nargs='?', default=default, type=Path)
    parser.add_argument('--width', type=int, default=1280)
    parser.add_argument('--height', type=int, default=384)
    parser.add_argument('--json', type=Path, help='write the figures here as well')
    args = parser.parse_args()
    trips = list(round_trip(args.data / 'training', InputSpec(args.width, args.height)))
    worst = np.concatenate([errors(*trip) for trip in trips])
    print(f'{len(trips)} frames, {len(worst)} labelled objects with their centre in the image')
    for name, unit, values in zip(
        ('centre', 'size', 'yaw'), ('m', 'm', 'deg'), worst.T, strict=True
    ):
        print(
            f'{name:<7} worst {values.max():.6f} {unit:<4} median {np.median(values):.6f} {unit}'
        )
    result = average_precision.evaluate_detections(
        [trip[0] for trip in trips], [trip[1] for trip in trips]
    )
    for name, metrics in result.items():
        easy, moderate, hard = metrics['3d']['AP40']['strict']
        print(f'{name:<11} 3D AP40 {easy:.1f}/{moderate:.1f}/{hard:.1f}')
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    'frames': len(trips),
                    'objects': len(worst),
                    'worst_center_m': float(worst[:, 0].max()),
                    'worst_size_m': float(worst[:, 1].max()),
                    'worst_yaw_deg': float(worst[:, 2].max()),
                    'ap40_3d': {n: list(m['3d']['AP40']['strict']) for n, m in result.items()},
                }
            )
        )


if __name__ == '__main__':
    main()
