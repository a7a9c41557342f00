"""
Does one student serve cameras of other focal lengths? It learnt one lens; try 0.7 and 1.4 of it.

python bench/focal.py [--student FILE] [--natives] [--frames 800] [--out runs/focal] [--csv FILE]

The student is judged on unseen worlds, the same ones through each of three lenses. Worlds
that are there are not made again. Two tables, for KITTI's rules count other cars through another
lens: those that are 25 pixels high, and in the picture at all.

The same cars: only those that every lens shows, at most partly hidden and 30 % cut off, and their
height in pixels is that in the lens that was learnt. All other cars count for nothing, nor does
what is found on them. What differs from lens to lens is then how a car looks, and no more.

KITTI's cars: the benchmark's own rules at every lens. This AP depends on the lens even for a
perfect transfer: what is as high in the picture is 1.4 times as far through a 1.4 times longer
lens, and so is every error, in metres, while the IoU that counts stays. What that alone does is
shown as well: labels and answers of the lens that was learnt, all depths stretched, which is how
the same pictures would count had another lens taken them.

"Told one lens" is the student without its knowledge of the lens: at every lens it is told that it
looks through the one that it has learnt.

With --natives three lines more, all after one stage of the student's training: virtual depth;
plain depth, which is the same but that metres are learnt themselves; and natives, which learnt the
same worlds in the same way through the lens that they are judged at. What is not there is trained,
an hour each on a core.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from stl_core.data.sources import kitti
from stl_core.data.synthetic.sensors import camera
from stl_core.evaluation import average_precision, error_matching
from stl_core.inference import result_files
from stl_core.inference.predictor import Predictor, load_predictor
from stl_core.preprocessing import letterbox_affine
from stl_core.training import stages, validation
from stl_core.types import Array, ImageObjects, Labels

STUDENT = Path('mono3d_ros/models/synthetic_mobile.safetensors')
CONFIG = Path('config/train/synthetic_mobile.yaml')
LEARNT = 1.0
LENSES = (0.7, LEARNT, 1.4)
SEED = 3
#: The worlds that natives learn: those that CONFIG's head tells to make.
LEARN_SEED, LEARN_FRAMES, LEARN_SIZE = 1, 4000, '640x192'
SAME, ALL = 'the same cars', "KITTI's cars"
ONE_STAGE, NATIVE = 'virtual, one stage', 'native, one stage'
#: What KITTI calls moderate.
MOST_TRUNCATED, MOST_OCCLUDED = 0.3, 1
#: Centres nearer than this in two labels of one world are of one car.
ONE_CAR_M = 0.05
DRAWS = 30


class Seen(NamedTuple):
    """What is there, and what was found, frame by frame."""

    truth: list[Labels]
    found: list[Labels]


class Row(NamedTuple):
    """One way to see, at one lens; APs in percent, Car 3D AP40 moderate."""

    cars: str
    depth: str
    lens: float
    ap_70: float
    ap_50: float
    #: What ap_50 varies by from one draw of so many frames to another, told by the bootstrap.
    sd_50: float
    #: Median of found over true depth of the cars that were found, less 1, percent.
    bias: float


def main() -> None:
    """Make what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--student', type=Path, default=STUDENT)
    parser.add_argument('--natives', action='store_true', help='train and judge them as well')
    parser.add_argument('--out', type=Path, default=Path('runs/focal'))
    parser.add_argument('--frames', type=int, default=800, help='unseen frames a lens')
    parser.add_argument('--csv', type=Path, help='write the table here as well')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ways = {'virtual depth': dict.fromkeys(LENSES, load_predictor(args.student))}
    ways['told one lens'] = {lens: blind(each) for lens, each in ways['virtual depth'].items()}
    if args.natives:
        ways |= after_one_stage(args.out)
    rows = measure(ways, args.out, args.frames)
    show(rows)
    if args.csv:
        with args.csv.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(Row._fields)
            writer.writerows(rows)


def after_one_stage(out: Path) -> dict[str, dict[float, Predictor]]:
    """Train what CONFIG's first stage makes: as it is, with plain depth, and natives."""
    worlds = {lens: Path(f'runs/synthetic_{lens:g}') for lens in LENSES}
    worlds[LEARNT] = Path('runs/synthetic')
    for lens, world in worlds.items():
        make_world(world, out, lens, LEARN_SEED, LEARN_FRAMES, '--size', LEARN_SIZE)
    natives = {LEARNT: first_stage()}
    plain = first_stage(f'stages.first.out={out}/plain', 'detector.options.virtual_focal_px=0.0')
    for lens in LENSES:
        if lens != LEARNT:
            place = f'stages.first.out={out}/trained_{lens:g}'
            natives[lens] = first_stage(place, *learn_from(worlds[lens]))
    return {
        ONE_STAGE: dict.fromkeys(LENSES, natives[LEARNT]),
        'plain, one stage': dict.fromkeys(LENSES, plain),
        NATIVE: natives,
    }


def learn_from(world: Path) -> list[str]:
    """Return the settings of a run that learns another world than CONFIG's."""
    kinds = ('image_2', 'calib', 'label_2')
    source = ', '.join(f'{kind}: {world}/training/{kind}' for kind in kinds)
    settings = []
    for part in ('train', 'val'):
        split = f'{world}/ImageSets/{part}.txt'
        settings += [f'{part}.sources=[{{{source}}}]', f'{part}.split={split}']
    return settings


def first_stage(*overrides: str) -> Predictor:
    """Train CONFIG's first stage with other settings, if that is not done."""
    config = stages.load_stages(CONFIG, overrides)['first']
    stages.run_stage(config)
    return load_predictor(Path(config.out) / 'student.safetensors')


def measure(ways: Mapping[str, Mapping[float, Predictor]], out: Path, frames: int) -> list[Row]:
    """Judge through every lens the predictor that each way has for it."""
    seen: dict[str, dict[float, Seen]] = {name: {} for name in ways}
    for lens in LENSES:
        folder = out / f'lens_{lens:g}'
        make_world(folder, out, lens, SEED, frames)
        for name, predictors in ways.items():
            seen[name][lens] = answer(predictors[lens], folder / 'training', frames)
    own = seen['virtual depth'][LEARNT]
    same = [(SAME, name, same_cars(each)) for name, each in seen.items()]
    seen['the same pictures'] = {lens: stretch(own, lens) for lens in LENSES}
    plans = same + [(ALL, name, each) for name, each in seen.items()]
    return [judge(cars, name, lens, each[lens]) for cars, name, each in plans for lens in LENSES]


def blind(predictor: Predictor) -> Predictor:
    """Return a predictor whose network is told one focal length whatever the lens."""
    spec = predictor.spec.input
    model = camera.KITTI
    learnt_px = model.focal_px * letterbox_affine(model.width_px, model.height_px, spec)[0, 0]

    def told_one_lens(canvases: Array, P: Array) -> list[ImageObjects]:
        told = np.array(P)
        told[:, [0, 1], [0, 1]] = learnt_px
        return predictor.forward_fn(canvases, told)

    return Predictor(told_one_lens, predictor.spec, predictor.min_score)


def make_world(
    folder: Path, out: Path, lens: float, seed: int, frames: int, *more: object
) -> None:
    """Take pictures of a seed's worlds through a lens; nothing, where they are there."""
    model = replace(camera.KITTI, focal_px=camera.KITTI.focal_px * lens)
    stored = out / f'lens_{lens:g}.json'
    stored.write_text(json.dumps(asdict(model)))
    world = ('--camera', stored, '--seed', seed, '--frames', frames, *more)
    command = ('synthesize', folder, *world, '--no-lidar', '--no-depth', '--jpg')
    subprocess.run([sys.executable, '-m', 'stl_core', *map(str, command)], check=True)


def same_cars(seen: dict[float, Seen]) -> dict[float, Seen]:
    """Leave the cars that all lenses show, as high in pixels as in the lens that was learnt."""
    left = {}
    for lens, (truth, found) in seen.items():
        worlds = zip(*(each.truth for each in seen.values()), strict=True)
        pairs = [
            only(is_common(mine, all_), mine, answers)
            for mine, answers, all_ in zip(truth, found, worlds, strict=True)
        ]
        small = [tuple(replace(e, box_px=e.box_px / lens) for e in pair) for pair in pairs]
        left[lens] = Seen(*map(list, zip(*small, strict=True)))
    return left


def is_common(mine: Labels, of_lenses: Sequence[Labels]) -> Array:
    """Tell which labels are cars that every lens shows well."""
    common = is_clear(mine)
    for other in of_lenses:
        clear_m = other.center_m[is_clear(other)]
        apart_m = np.linalg.norm(mine.center_m[:, None] - clear_m, axis=2)
        common &= (apart_m < ONE_CAR_M).any(1)
    return common


def only(common: Array, truth: Labels, found: Labels) -> tuple[Labels, Labels]:
    """Leave out what is found on other cars, and rename those: KITTI passes over vans for cars."""
    labels, answers = error_matching.match_by_box_iou(truth, found)
    other = answers[~common[labels] & (truth.name[labels] == 'Car')]
    name = np.where((truth.name == 'Car') & ~common, 'Van', truth.name)
    return replace(truth, name=name), found[np.setdiff1d(np.arange(len(found)), other)]


def is_clear(labels: Labels) -> Array:
    """Tell which labels are cars of moderate difficulty, however small."""
    whole = (labels.truncated <= MOST_TRUNCATED) & (labels.occluded <= MOST_OCCLUDED)
    return np.asarray(whole & (labels.name == 'Car'))


def stretch(seen: Seen, lens: float) -> Seen:
    """Move objects along z as if a lens so many times longer had taken the same pictures."""

    def moved(part: Sequence[Labels]) -> list[Labels]:
        return [replace(each, center_m=each.center_m * [1.0, 1.0, lens]) for each in part]

    return Seen(moved(seen.truth), moved(seen.found))


def answer(predictor: Predictor, world: Path, frames: int) -> Seen:
    """Return labels and what is found of the first frames of a world."""
    source = kitti.KittiFolders(*(str(world / name) for name in ('image_2', 'calib', 'label_2')))
    exam = validation.load_validation_set(kitti.list_kitti_frames(source)[:frames])
    return Seen(exam.ground_truth, result_files.predict_frames(predictor, exam.frames))


def judge(cars: str, depth: str, lens: float, seen: Seen) -> Row:
    """Evaluate at IoU 0.7 and 0.5, and draw the frames again to tell what chance does."""
    ap = average_precision.evaluate_detections(seen.truth, seen.found)['Car']['3d']['AP40']
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(seen.truth), size=len(seen.truth)) for _ in range(DRAWS)]
    again = [
        average_precision.evaluate_detections(
            [seen.truth[i] for i in rows], [seen.found[i] for i in rows]
        )
        for rows in drawn
    ]
    sd = np.std([each['Car']['3d']['AP40']['loose'][1] for each in again], ddof=1)
    figures = (ap['strict'][1], ap['loose'][1], sd, 100 * depth_bias(seen))
    return Row(cars, depth, lens, *(round(float(each), 2) for each in figures))


def depth_bias(seen: Seen) -> float:
    """Median over the cars that are found of found over true depth, less 1."""
    ratios = []
    for truth, found in zip(seen.truth, seen.found, strict=True):
        labels, answers = error_matching.match_by_box_iou(truth, found)
        cars = truth.name[labels] == 'Car'
        ratios.append(found.center_m[answers[cars], 2] / truth.center_m[labels[cars], 2])
    return float(np.median(np.concatenate(ratios))) - 1


def show(rows: Sequence[Row]) -> None:
    """Print a line each way to see; in brackets the share of the AP that it is compared with."""
    for title, value in (('0.5', 'ap_50'), ('0.7', 'ap_70')):
        at = {(row.cars, row.depth, row.lens): row for row in rows}
        table = Table(title=f'Car 3D AP40 at IoU {title}, moderate', title_justify='left')
        table.add_column('cars')
        table.add_column('depth')
        for lens in LENSES:
            table.add_column(f'{lens:g}x', justify='right')
        table.add_column('% of')
        table.add_column('bias of depth')
        for cars, depth in dict.fromkeys((row.cars, row.depth) for row in rows):
            cells, biases = [], []
            for lens in LENSES:
                row = at[cars, depth, lens]
                whole = at[(cars, NATIVE, lens) if depth == ONE_STAGE else (cars, depth, LEARNT)]
                share = getattr(row, value) / (getattr(whole, value) or np.nan)
                spread = f' ± {row.sd_50:.1f}' if value == 'ap_50' else ''
                cells.append(f'{getattr(row, value):.1f}{spread} ({share:.0%})')
                biases.append(f'{row.bias:+.1f}')
            told = 'native' if depth == ONE_STAGE else '1x'
            table.add_row(cars, depth, *cells, told, ' '.join(biases) + ' %')
        Console(width=130).print(table)


if __name__ == '__main__':
    main()
