"""
Time the KITTI evaluation at the size of the validation split: 3,769 frames, all metrics.

Repeats the 300 labelled frames of the shared data set up to that number. Run from the repository:
python bench/kitti_ap.py [--frames N] [--detections pointgnn_car|synthetic_3class] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from itertools import cycle, islice
from pathlib import Path

from stl_core.data.sources.kitti import read_labels, read_split
from stl_core.evaluation.average_precision import evaluate_detections

DATA = Path(os.environ.get('MONO3D_DATA', Path(__file__).parents[1].parent / 'shared' / 'data'))


def main() -> None:
    """Read and repeat the frames, evaluate them, print frames per second and the AP table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=3769)
    parser.add_argument('--detections', default='synthetic_3class')
    parser.add_argument('--profile', action='store_true', help='print a profile of the evaluation')
    args = parser.parse_args()

    folder = DATA / 'extras' / 'eval_val300'
    ids = read_split(folder / 'ids.txt')
    labels = [read_labels(folder / 'label_2' / f'{i}.txt') for i in ids]
    results = [read_labels(folder / args.detections / 'data' / f'{i}.txt') for i in ids]
    ground_truth = list(islice(cycle(labels), args.frames))
    detections = list(islice(cycle(results), args.frames))

    profile = cProfile.Profile()
    if args.profile:
        profile.enable()
    start = time.perf_counter()
    result = evaluate_detections(ground_truth, detections)
    seconds = time.perf_counter() - start
    if args.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats('tottime').print_stats(15)
    print(result.format_table())
    num_labels, num_detections = sum(map(len, ground_truth)), sum(map(len, detections))
    print(
        f'{args.frames} frames, {num_labels} labels, {num_detections} detections: '
        f'{seconds:.2f} s, {args.frames / seconds:.0f} frames/s'
    )


if __name__ == '__main__':
    main()
