"""
Measure how a model generalises to other focal lengths: 0.7 and 1.4 times the trained one.

python bench/focal.py [--student FILE] [--natives] [--frames 800] [--out runs/focal] [--csv FILE]

Evaluates the model on unseen synthetic scenes, rendered with each of three focal lengths. Existing
data sets are reused. The tables have two sets of cars, because KITTI's rules (25 pixels high,
inside the image) count other cars at another focal length.

The same cars: visible at all three focal lengths with KITTI-moderate occlusion and truncation,
evaluated with their pixel height at the trained focal length. All other cars and the detections
matched with them are ignored, so that only the appearance of the cars differs.

KITTI's cars: the benchmark's rules at every focal length. This AP depends on the focal length even
for a perfect transfer: at a 1.4 times longer focal length, an object of the same pixel height is
1.4 times as far away, and so is every error in metres, while the IoU threshold stays. The rows
'the same pictures' show this effect alone: labels and detections at the trained focal length, with
all depths scaled as if another focal length had produced the same images.

A further row shows the model without its focal-length input: at every focal length, it gets the
trained focal length.

--natives adds three models after the first stage of the model's training: with a virtual focal
length; with depth in metres, which is the same except for the depth encoding; and "native" models,
each trained on the same scenes rendered with the focal length of the evaluation. Missing models
are trained, one hour each on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from stl_core.data.frame_source import read_images
from stl_core.data.sources import kitti
from stl_core.data.synthetic.sensors import camera
from stl_core.evaluation import average_precision, error_matching
from stl_core.inference import result_files
from stl_core.inference.predictor import Predictor, load_predictor
from stl_core.inference.runtimes.interface import Runner
from stl_core.preprocessing import letterbox_affine
from stl_core.training import stages, validation
from stl_core.training.resolved_config import resolve_config
from stl_core.types import Array, ImageObjects, Labels

MODEL = Path('mono3d_ros/models/synthetic_mobile.safetensors')
CONFIG = Path('config/train/synthetic_mobile.yaml')
#: Focal lengths as multiples of the trained one.
TRAINED = 1.0
LENSES = (0.7, TRAINED, 1.4)
SEED = 3
#: Training data of the native models: as in the first lines of CONFIG.
TRAIN_SEED, TRAIN_FRAMES, TRAIN_SIZE = 1, 4000, '640x192'
SAME, ALL = 'the same cars', "KITTI's cars"
ONE_STAGE, NATIVE = 'virtual, one stage', 'native, one stage'
#: KITTI's moderate difficulty.
MAX_TRUNCATED, MAX_OCCLUDED = 0.3, 1
#: Labels of one scene whose centres are nearer than this belong to the same car.
SAME_CAR_M = 0.05
NUM_BOOTSTRAP = 30


class Evaluated(NamedTuple):
    """Labels and detections, frame by frame."""

    truth: list[Labels]
    detections: list[Labels]


class Row(NamedTuple):
    """A row of the CSV: one set of cars, model and focal length; Car 3D AP40 moderate, percent."""

    cars: str
    depth: str
    lens: float
    ap_70: float
    ap_50: float
    #: Standard deviation of ap_50 over bootstrap samples of the frames.
    sd_50: float
    #: Median of detected over true depth of the matched cars, minus 1, percent.
    bias: float


def main() -> None:
    """Render and train missing data sets and models, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--student', type=Path, default=MODEL)
    parser.add_argument(
        '--natives', action='store_true', help='also train and evaluate one-stage models'
    )
    parser.add_argument('--out', type=Path, default=Path('runs/focal'))
    parser.add_argument('--frames', type=int, default=800, help='unseen frames per focal length')
    parser.add_argument('--csv', type=Path, help='also write the table to this file')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    models = {'virtual depth': dict.fromkeys(LENSES, load_predictor(args.student))}
    models['fixed focal length'] = {
        lens: with_fixed_focal_length(each) for lens, each in models['virtual depth'].items()
    }
    if args.natives:
        models |= train_one_stage(args.out)
    rows = evaluate_models(models, args.out, args.frames)
    print_tables(rows)
    if args.csv:
        with args.csv.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(Row._fields)
            writer.writerows(rows)


def train_one_stage(out: Path) -> dict[str, dict[float, Predictor]]:
    """Train CONFIG's first stage unchanged, with depth in metres, and on each focal length."""
    data_sets = {lens: Path(f'runs/synthetic_{lens:g}') for lens in LENSES}
    data_sets[TRAINED] = Path('runs/synthetic')
    for lens, folder in data_sets.items():
        render_scenes(folder, out, lens, TRAIN_SEED, TRAIN_FRAMES, '--size', TRAIN_SIZE)
    natives = {TRAINED: first_stage()}
    in_metres = first_stage(
        f'stages.first.out={out}/plain', 'detector.options.virtual_focal_px=0.0'
    )
    for lens in LENSES:
        if lens != TRAINED:
            natives[lens] = first_stage(
                f'stages.first.out={out}/trained_{lens:g}', *data_overrides(data_sets[lens])
            )
    return {
        ONE_STAGE: dict.fromkeys(LENSES, natives[TRAINED]),
        'plain, one stage': dict.fromkeys(LENSES, in_metres),
        NATIVE: natives,
    }


def data_overrides(folder: Path) -> list[str]:
    """Return the overrides of CONFIG that train on another data set."""
    kinds = ('image_2', 'calib', 'label_2')
    source = ', '.join(f'{kind}: {folder}/training/{kind}' for kind in kinds)
    overrides = []
    for part in ('train', 'val'):
        split = f'{folder}/ImageSets/{part}.txt'
        overrides += [f'{part}.sources=[{{{source}}}]', f'{part}.split={split}']
    return overrides


def first_stage(*overrides: str) -> Predictor:
    """Train CONFIG's first stage with overrides, unless it is finished; return its predictor."""
    config = stages.load_stages(CONFIG, overrides)['first']
    stages.run_stage(resolve_config(config))
    return load_predictor(Path(config.out) / 'student.safetensors')


def evaluate_models(
    models: Mapping[str, Mapping[float, Predictor]], out: Path, frames: int
) -> list[Row]:
    """
    Evaluate models at every focal length.

    :param models: {name: {focal length: predictor}}.
    :param out: folder for the rendered frames.
    :param frames: number of frames per focal length.
    :return: rows of the table.
    """
    results: dict[str, dict[float, Evaluated]] = {name: {} for name in models}
    for lens in LENSES:
        folder = out / f'lens_{lens:g}'
        render_scenes(folder, out, lens, SEED, frames)
        for name, predictors in models.items():
            results[name][lens] = detect(predictors[lens], folder / 'training', frames)
    at_trained = results['virtual depth'][TRAINED]
    same = [(SAME, name, same_cars(each)) for name, each in results.items()]
    results['the same pictures'] = {lens: scale_depths(at_trained, lens) for lens in LENSES}
    tables = same + [(ALL, name, each) for name, each in results.items()]
    return [
        evaluate(cars, name, lens, each[lens]) for cars, name, each in tables for lens in LENSES
    ]


@dataclass(frozen=True)
class FixedFocalRunner:
    """A runner that replaces the focal length of every projection, pixels of the canvas."""

    runner: Runner
    focal_px: float

    @property
    def device(self) -> str:
        """Return the device of the runner."""
        return self.runner.device

    def __call__(self, canvases: Array, P: Array) -> list[ImageObjects]:
        """Run the network with the fixed focal length."""
        fixed_P = np.array(P)
        fixed_P[:, [0, 1], [0, 1]] = self.focal_px
        return self.runner(canvases, fixed_P)


def with_fixed_focal_length(predictor: Predictor) -> Predictor:
    """Return a predictor whose network always gets the trained focal length as input."""
    spec = predictor.spec.input
    model = camera.KITTI
    trained_px = model.focal_px * letterbox_affine(model.width_px, model.height_px, spec)[0, 0]

    return Predictor(
        FixedFocalRunner(predictor.runner, trained_px), predictor.spec, predictor.min_score
    )


def render_scenes(
    folder: Path, out: Path, lens: float, seed: int, frames: int, *more: object
) -> None:
    """Render the scenes of a seed with a focal length; existing frames are kept."""
    model = replace(camera.KITTI, focal_px=camera.KITTI.focal_px * lens)
    camera_file = out / f'lens_{lens:g}.json'
    camera_file.write_text(json.dumps(asdict(model)))
    options = ('--camera', camera_file, '--seed', seed, '--frames', frames, *more)
    command = ('synthesize', folder, *options, '--no-lidar', '--no-depth', '--jpg')
    subprocess.run([sys.executable, '-m', 'stl_core', *map(str, command)], check=True)


def same_cars(results: dict[float, Evaluated]) -> dict[float, Evaluated]:
    """Keep cars visible at all focal lengths; scale boxes to the trained focal length."""
    common_results = {}
    for lens, (truth, detections) in results.items():
        labels_by_frame = zip(*(each.truth for each in results.values()), strict=True)
        pairs = [
            keep_common_cars(is_common(labels, labels_by_lens), labels, detected)
            for labels, detected, labels_by_lens in zip(
                truth, detections, labels_by_frame, strict=True
            )
        ]
        scaled = [tuple(replace(e, box_px=e.box_px / lens) for e in pair) for pair in pairs]
        common_results[lens] = Evaluated(*map(list, zip(*scaled, strict=True)))
    return common_results


def is_common(labels: Labels, labels_by_lens: Sequence[Labels]) -> Array:
    """Return, per label of a frame, whether it is a car clearly visible at all focal lengths."""
    common = is_clear(labels)
    for other in labels_by_lens:
        clear_m = other.center_m[is_clear(other)]
        distance_m = np.linalg.norm(labels.center_m[:, None] - clear_m, axis=2)
        common &= (distance_m < SAME_CAR_M).any(1)
    return common


def keep_common_cars(common: Array, truth: Labels, detections: Labels) -> tuple[Labels, Labels]:
    """Drop detections of other cars and rename these to 'Van', which KITTI ignores for cars."""
    labels, matches = error_matching.match_by_box_iou(truth, detections)
    other = matches[~common[labels] & (truth.name[labels] == 'Car')]
    name = np.where((truth.name == 'Car') & ~common, 'Van', truth.name)
    kept = np.setdiff1d(np.arange(len(detections)), other)
    return replace(truth, name=name), detections[kept]


def is_clear(labels: Labels) -> Array:
    """Return, per label, whether it is a car of moderate difficulty, of any size."""
    clear = (labels.truncated <= MAX_TRUNCATED) & (labels.occluded <= MAX_OCCLUDED)
    return np.asarray(clear & (labels.name == 'Car'))


def scale_depths(results: Evaluated, lens: float) -> Evaluated:
    """Scale depths as if a focal length of `lens` times the trained one gave the same images."""

    def scaled(part: Sequence[Labels]) -> list[Labels]:
        return [replace(each, center_m=each.center_m * [1.0, 1.0, lens]) for each in part]

    return Evaluated(scaled(results.truth), scaled(results.detections))


def detect(predictor: Predictor, root: Path, frames: int) -> Evaluated:
    """Return labels and detections of the first frames of a data set."""
    source = kitti.KittiFolders(*(str(root / name) for name in ('image_2', 'calib', 'label_2')))
    data = validation.load_validation_set(read_images(kitti.KittiSource(source))[:frames])
    return Evaluated(data.ground_truth, result_files.predict_frames(predictor, data.frames))


def evaluate(cars: str, depth: str, lens: float, results: Evaluated) -> Row:
    """Compute AP at IoU 0.7 and 0.5, its bootstrap deviation and the depth bias."""
    truth, detections = results
    ap = average_precision.evaluate_detections(truth, detections)['Car']
    rng = np.random.default_rng(0)
    samples = [rng.integers(len(truth), size=len(truth)) for _ in range(NUM_BOOTSTRAP)]
    resampled = [
        average_precision.evaluate_detections(
            [truth[i] for i in rows], [detections[i] for i in rows]
        )
        for rows in samples
    ]
    strict, loose = (
        ap.value('3d', 'AP40', criterion, 'moderate') for criterion in ('strict', 'loose')
    )
    sd = np.std(
        [each['Car'].value('3d', 'AP40', 'loose', 'moderate') for each in resampled], ddof=1
    )
    figures = (strict, loose, sd, 100 * depth_bias(results))
    return Row(cars, depth, lens, *(round(float(each), 2) for each in figures))


def depth_bias(results: Evaluated) -> float:
    """Return the median of detected over true depth of the matched cars, minus 1."""
    ratios = []
    for truth, detections in zip(results.truth, results.detections, strict=True):
        labels, matches = error_matching.match_by_box_iou(truth, detections)
        cars = truth.name[labels] == 'Car'
        ratios.append(detections.center_m[matches[cars], 2] / truth.center_m[labels[cars], 2])
    return float(np.median(np.concatenate(ratios))) - 1


def print_tables(rows: Sequence[Row]) -> None:
    """Print a line per model and set of cars; in brackets, AP relative to the reference model."""
    for title, value in (('0.5', 'ap_50'), ('0.7', 'ap_70')):
        at = {(row.cars, row.depth, row.lens): row for row in rows}
        table = Table(title=f'Car 3D AP40 at IoU {title}, moderate', title_justify='left')
        table.add_column('cars')
        table.add_column('depth')
        for lens in LENSES:
            table.add_column(f'{lens:g}x', justify='right')
        table.add_column('% of')
        table.add_column('depth bias')
        for cars, depth in dict.fromkeys((row.cars, row.depth) for row in rows):
            cells, biases = [], []
            for lens in LENSES:
                row = at[cars, depth, lens]
                reference = at[
                    (cars, NATIVE, lens) if depth == ONE_STAGE else (cars, depth, TRAINED)
                ]
                fraction = getattr(row, value) / (getattr(reference, value) or np.nan)
                deviation = f' ± {row.sd_50:.1f}' if value == 'ap_50' else ''
                cells.append(f'{getattr(row, value):.1f}{deviation} ({fraction:.0%})')
                biases.append(f'{row.bias:+.1f}')
            reference_name = 'native' if depth == ONE_STAGE else '1x'
            table.add_row(cars, depth, *cells, reference_name, ' '.join(biases) + ' %')
        Console(width=130).print(table)


if __name__ == '__main__':
    main()
