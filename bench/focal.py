"""
Does one student serve cameras of other focal lengths? It learnt one lens; try 0.7 and 1.4 of it.

python bench/focal.py [--student FILE] [--frames 800] [--out runs/focal] [--csv FILE]

The student is judged on unseen worlds, the same ones through each of three lenses. Worlds
that are there are not made again.

Plain depth is the student as if it had learnt that. At a single focal length the two
parametrisations are one: they differ in the bias of a logit. So it is the same network, told at
every lens that it looks through the one it has learnt.

AP3D itself depends on the lens: what is as high in the picture is 1.4 times as far through a 1.4
times longer lens, and so is every error, in metres, while the IoU that counts stays. What that
alone does is shown as well: labels and answers of the lens that was learnt, all depths stretched,
which is how the same pictures would count had another lens taken them.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from stl_core import evaluate, predict
from stl_core import judge as judging
from stl_core.data import kitti
from stl_core.data.synthetic import camera
from stl_core.images import fit_affine
from stl_core.types import Array, ImageObjects, Labels

STUDENT = Path('mono3d_ros/models/synthetic_mobile.safetensors')
LEARNT = 1.0
LENSES = (0.7, LEARNT, 1.4)
SEED = 3


class Seen(NamedTuple):
    """What is there, and what was found, frame by frame."""

    truth: list[Labels]
    found: list[Labels]


class Row(NamedTuple):
    """One way to see, at one lens; APs in percent, Car 3D AP40 moderate."""

    depth: str
    lens: float
    ap_70: float
    ap_50: float


def main() -> None:
    """Make what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--student', type=Path, default=STUDENT)
    parser.add_argument('--out', type=Path, default=Path('runs/focal'))
    parser.add_argument('--frames', type=int, default=800, help='unseen frames a lens')
    parser.add_argument('--csv', type=Path, help='write the table here as well')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = measure(args.student, args.out, args.frames)
    show(rows)
    if args.csv:
        with args.csv.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(Row._fields)
            writer.writerows(rows)


def measure(student: Path, out: Path, frames: int) -> list[Row]:
    """Judge the student through every lens, as it is and as if it had learnt plain depth."""
    virtual = predict.load(student)
    plain = as_if_plain(virtual)
    rows, own = [], None
    for lens in LENSES:
        folder = out / f'lens_{lens:g}'
        make_world(folder, lens, frames)
        for name, predictor in (('virtual depth', virtual), ('plain depth', plain)):
            seen = answer(predictor, folder / 'training', frames)
            rows.append(judge(name, lens, seen))
            if lens == LEARNT and predictor is virtual:
                own = seen
    assert own is not None
    rows += [judge('the same pictures', lens, stretch(own, lens)) for lens in LENSES]
    return sorted(rows, key=lambda row: row.depth, reverse=True)


def as_if_plain(predictor: predict.Predictor) -> predict.Predictor:
    """Return a predictor whose network is told one focal length whatever the lens."""
    spec = predictor.spec.input
    model = camera.KITTI
    learnt_px = model.focal_px * fit_affine(model.width_px, model.height_px, spec)[0, 0]

    def told_one_lens(canvases: Array, P: Array) -> list[ImageObjects]:
        told = np.array(P)
        told[:, [0, 1], [0, 1]] = learnt_px
        return predictor.run(canvases, told)

    return predict.Predictor(told_one_lens, predictor.spec, predictor.min_score)


def make_world(folder: Path, lens: float, frames: int) -> None:
    """Take pictures of the seed's worlds through a lens."""
    model = replace(camera.KITTI, focal_px=camera.KITTI.focal_px * lens)
    stored = folder.parent / f'lens_{lens:g}.json'
    stored.write_text(json.dumps(asdict(model)))
    world = ('--camera', stored, '--seed', SEED, '--frames', frames)
    command = ('synthesize', folder, *world, '--no-lidar', '--no-depth', '--jpg')
    subprocess.run([sys.executable, '-m', 'stl_core', *map(str, command)], check=True)


def stretch(seen: Seen, lens: float) -> Seen:
    """Move objects along z as if a lens so many times longer had taken the same pictures."""

    def moved(part: Sequence[Labels]) -> list[Labels]:
        return [replace(each, center_m=each.center_m * [1.0, 1.0, lens]) for each in part]

    return Seen(moved(seen.truth), moved(seen.found))


def answer(predictor: predict.Predictor, world: Path, frames: int) -> Seen:
    """Return labels and what is found of the first frames of a world."""
    source = kitti.Source(*(str(world / name) for name in ('image_2', 'calib', 'label_2')))
    exam = judging.set_exam(kitti.find_frames(source)[:frames])
    return Seen(exam.truth, judging.detect(predictor, exam.frames))


def judge(depth: str, lens: float, seen: Seen) -> Row:
    """Evaluate at IoU 0.7 and 0.5."""
    ap = evaluate.evaluate(seen.truth, seen.found)['Car']['3d']['AP40']
    return Row(depth, lens, round(ap['strict'][1], 2), round(ap['loose'][1], 2))


def show(rows: Sequence[Row]) -> None:
    """Print a line each way to see; in brackets the share of what it has at the learnt lens."""
    for title, value in (('0.5', 'ap_50'), ('0.7', 'ap_70')):
        at = {(row.depth, row.lens): getattr(row, value) for row in rows}
        table = Table(title=f'Car 3D AP40 at IoU {title}, moderate', title_justify='left')
        table.add_column('depth')
        for lens in LENSES:
            table.add_column(f'{lens:g}x', justify='right')
        for depth in dict.fromkeys(row.depth for row in rows):
            own = at[depth, LEARNT]
            shares = [f'{at[depth, lens] / own:.0%}' if own else '-' for lens in LENSES]
            cells = [f'{at[depth, lens]:.1f}' for lens in LENSES]
            table.add_row(depth, *(f'{c} ({s})' for c, s in zip(cells, shares, strict=True)))
        Console().print(table)


if __name__ == '__main__':
    main()
