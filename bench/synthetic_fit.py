"""
Compute the statistics of KITTI's training labels from which synthetic data is drawn.

Writes stl_core/data/synthetic/scene/kitti_statistics.json: quantiles, moments, fractions and
counts, but no labels.
Run from the repository: python bench/synthetic_fit.py [--labels kitti_train_split_labels.zip]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stl_core.data.sources.kitti import read_labels
from stl_core.data.synthetic.scene.distributions import (
    CLASSES,
    MEASURES,
    QUANTILE_LEVELS,
    STATISTICS_FILE,
    summarise_labels,
)
from stl_core.types import Array, Labels

DATA = Path(os.environ.get('MONO3D_DATA', Path(__file__).parents[1].parent / 'shared' / 'data'))


def main() -> None:
    """Read the labels, compute the statistics, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--labels', default=str(DATA / 'kitti_train_split_labels.zip'))
    parser.add_argument('--out', default=str(STATISTICS_FILE))
    args = parser.parse_args()
    frames = read_zip(Path(args.labels))
    classes = {
        name: summarise_labels(frames, name) | {'size_correlation': correlation(frames, name)}
        for name in CLASSES
    }
    statistics = {'frames': len(frames), 'levels': list(QUANTILE_LEVELS), 'classes': classes}
    Path(args.out).write_text(json.dumps(statistics, indent=0) + '\n')
    print(f'{args.out}: {len(frames)} frames, {len(MEASURES)} measures of {len(CLASSES)} classes')


def read_zip(path: Path) -> list[Labels]:
    """Return the labels of every label file of a zip archive."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder)
        return [read_labels(each) for each in sorted(Path(folder).rglob('*.txt'))]


def correlation(frames: Sequence[Labels], name: str) -> Array:
    """Return the correlation of log height, width and length of a class: (3, 3) as lists."""
    sizes = np.concatenate([each.size_hwl_m[each.name == name] for each in frames])
    return np.corrcoef(np.log(np.maximum(sizes, 1e-2)).T).round(3).tolist()


if __name__ == '__main__':
    main()
