"""
Does one student serve cameras of other focal lengths? It learnt one lens; try 0.7 and 1.4 of it.

python bench/focal.py [--student FILE] [--native 0.7=FILE 1.4=FILE] [--train] [--frames 1000]
                      [--out runs/focal] [--csv FILE]

Judged on unseen worlds, the same ones through each of three lenses: the student, and natives,
which learnt the same worlds in the same way through the lens that they are judged at. --train
makes natives first: twice the time of the student's own training; an interrupted run goes on.

Plain depth is the student as if it had learnt that. At a single focal length the two
parametrisations are one: they differ in the bias of a logit. So it is the same network, told at
every lens that it looks through the one it has learnt.

AP3D itself depends on the lens: what is as high in the picture is 1.4 times as far through a 1.4
times longer lens, and so is every error, in metres, while the IoU that counts stays. What that
alone does is shown as well: labels and answers of the lens that was learnt, all depths stretched,
which is how the same pictures would count had another lens taken them. So a student is compared
with the native of a lens, and not with itself at another.
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
CONFIG = Path('config/train/synthetic_mobile.yaml')
LEARNT = 1.0
OTHERS = (0.7, 1.4)
LENSES = (0.7, LEARNT, 1.4)
#: As the student's own: seed, frames and size that CONFIG's head tells to make.
LEARN_SEED, LEARN_FRAMES, LEARN_SIZE = 1, 4000, '640x192'
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
    parser.add_argument('--native', nargs='*', default=[], metavar='LENS=FILE')
    parser.add_argument('--train', action='store_true', help='natives that are not there yet')
    parser.add_argument('--out', type=Path, default=Path('runs/focal'))
    parser.add_argument('--frames', type=int, default=1000, help='unseen frames a lens')
    parser.add_argument('--csv', type=Path, help='write the table here as well')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    given = dict(pair.split('=', 1) for pair in args.native)
    natives = {float(lens): Path(file) for lens, file in given.items()}
    if args.train:
        natives |= {lens: trained(args.out, lens) for lens in OTHERS if lens not in natives}
    rows = measure(args.student, natives, args.out, args.frames)
    show(rows)
    if args.csv:
        with args.csv.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(Row._fields)
            writer.writerows(rows)


def trained(out: Path, lens: float) -> Path:
    """Train a student through a lens, all else as CONFIG has it; return its file."""
    folder = out / f'trained_{lens:g}'
    if not (folder / 'student.safetensors').exists():
        world = out / f'learn_{lens:g}'
        synthesize(world, lens, LEARN_SEED, LEARN_FRAMES, '--size', LEARN_SIZE)
        kinds = ('image_2', 'calib', 'label_2')
        source = ', '.join(f'{kind}: {world}/training/{kind}' for kind in kinds)
        parts = [
            setting
            for part in ('train', 'val')
            for setting in (
                f'{part}.sources=[{{{source}}}]',
                f'{part}.split={world}/ImageSets/{part}.txt',
            )
        ]
        run('train', CONFIG, f'out={folder}', 'eval_every=0', *parts)
    return folder / 'student.safetensors'


def measure(student: Path, natives: dict[float, Path], out: Path, frames: int) -> list[Row]:
    """Judge the student through every lens, as it is and as if plain, and each native at its."""
    virtual = predict.load(student)
    plain = as_if_plain(virtual)
    rows, own = [], None
    for lens in LENSES:
        folder = out / f'lens_{lens:g}'
        synthesize(folder, lens, SEED, frames)
        ways = {'virtual depth': virtual, 'plain depth': plain}
        if lens in natives:
            ways['native'] = predict.load(natives[lens])
        for name, predictor in ways.items():
            seen = answer(predictor, folder / 'training', frames)
            rows.append(judge(name, lens, seen))
            if lens == LEARNT and predictor is virtual:
                own = seen
    assert own is not None
    rows += [judge('the same pictures', lens, stretch(own, lens)) for lens in LENSES]
    return rows


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


def synthesize(folder: Path, lens: float, seed: int, frames: int, *more: str) -> None:
    """Take pictures of a seed's worlds through a lens; nothing, where they are there."""
    model = replace(camera.KITTI, focal_px=camera.KITTI.focal_px * lens)
    stored = folder.parent / f'lens_{lens:g}.json'
    stored.write_text(json.dumps(asdict(model)))
    world = ('--camera', stored, '--seed', seed, '--frames', frames, *more)
    run('synthesize', folder, *world, '--no-lidar', '--no-depth', '--jpg')


def run(*command: object) -> None:
    """Run stl's command in a process of its own."""
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
    """Print APs at IoU 0.5, a line each way to see; in brackets the share of the native's."""
    at = {(row.depth, row.lens): row.ap_50 for row in rows}
    table = Table(title='Car 3D AP40 at IoU 0.5, moderate', title_justify='left')
    table.add_column('depth')
    for lens in LENSES:
        table.add_column(f'{lens:g}x', justify='right')
    for depth in dict.fromkeys(row.depth for row in rows):
        cells = []
        for lens in LENSES:
            ap, native = at.get((depth, lens)), at.get(('native', lens))
            share = f' ({ap / native:.0%})' if ap is not None and native else ''
            cells.append('' if ap is None else f'{ap:.1f}{share}')
        table.add_row(depth, *cells)
    Console().print(table)


if __name__ == '__main__':
    main()
