"""
Does one student serve cameras of other focal lengths? It learnt one lens; try 0.7 and 1.4 of it.

python bench/focal.py [--student FILE] [--frames 400] [--out runs/focal] [--csv FILE]

The student is judged on unseen worlds, the same ones through each of three lenses: as it is, and
as it would be had it learnt plain depth. At a single focal length the two parametrisations are
one: they differ in the bias of a logit. So plain depth is the same network, told at every lens
that it looks through the one it has learnt. An interrupted run goes on.

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
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from stl_core import evaluate, predict
from stl_core import judge as judging
from stl_core.data import kitti
from stl_core.data.synthetic import camera
from stl_core.images import fit_affine
from stl_core.progress import progress_bar
from stl_core.types import Labels

STUDENT = Path('mono3d_ros/models/synthetic_mobile.safetensors')
LENSES = (0.7, 1.0, 1.4)
SEED = 3
ORDER = ('virtual depth', 'plain depth', 'the same pictures')


def main() -> None:
    """Make what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--student', type=Path, default=STUDENT)
    parser.add_argument('--out', type=Path, default=Path('runs/focal'))
    parser.add_argument('--frames', type=int, default=400, help='unseen frames a lens')
    parser.add_argument('--csv', type=Path, help='write the table here as well')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    virtual = predict.load(args.student)
    plain = as_if_plain(virtual)
    rows, learnt = [], None
    for lens in LENSES:
        world = make_world(args.out, lens, args.frames)
        for name, predictor in (('virtual depth', virtual), ('plain depth', plain)):
            seen = answer(predictor, world)
            rows.append({'depth': name, 'focal length': lens, **judge(*seen)})
            if lens == 1.0 and predictor is virtual:
                learnt = seen
    for lens in LENSES:
        stretched = ([stretch(each, lens) for each in part] for part in learnt)
        rows.append({'depth': 'the same pictures', 'focal length': lens, **judge(*stretched)})
    rows.sort(key=lambda row: ORDER.index(row['depth']))
    show(rows)
    if args.csv:
        with args.csv.open('w', newline='') as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def as_if_plain(predictor: predict.Predictor) -> predict.Predictor:
    """Return a predictor whose network is told one focal length whatever the lens."""
    spec = predictor.spec.input
    model = camera.KITTI
    learnt_px = model.focal_px * fit_affine(model.width_px, model.height_px, spec)[0, 0]

    def run(canvases, P):
        told = np.array(P)
        told[:, [0, 1], [0, 1]] = learnt_px
        return predictor.run(canvases, told)

    return predict.Predictor(run, predictor.spec, predictor.min_score)


def make_world(out: Path, lens: float, frames: int) -> Path:
    """Take pictures of the seed's worlds through a lens, KITTI's size; return the folder."""
    model = replace(camera.KITTI, focal_px=camera.KITTI.focal_px * lens)
    stored, folder = out / f'lens_{lens:g}.json', out / f'lens_{lens:g}'
    stored.write_text(json.dumps(asdict(model)))
    size = ('--frames', frames, '--seed', SEED, '--no-lidar', '--no-depth', '--jpg')
    command = ('synthesize', folder, '--camera', stored, *size)
    subprocess.run([sys.executable, '-m', 'stl_core', *map(str, command)], check=True)
    return folder / 'training'


def stretch(labels: Labels, lens: float) -> Labels:
    """Move objects along z as if a lens so many times longer had taken the same picture."""
    return replace(labels, center_m=labels.center_m * [1.0, 1.0, lens])


def answer(predictor: predict.Predictor, world: Path) -> tuple[list[Labels], list[Labels]]:
    """Return the labels of every frame, and what is found in it."""
    source = kitti.Source(*(str(world / name) for name in ('image_2', 'calib', 'label_2')))
    frames, truth, found = kitti.find_frames(source), [], []
    with progress_bar() as bar:
        task = bar.add_task(world.parent.name, total=len(frames), note='')
        for files in frames:
            truth.append(kitti.read_labels(files.label_2))
            _, _, objects = judging.see(predictor, files)
            found.append(kitti.to_labels(objects, predictor.spec.classes))
            bar.advance(task)
    return truth, found


def judge(truth: list[Labels], found: list[Labels]) -> dict[str, float]:
    """Return the Car 3D AP40, moderate, at IoU 0.7 and 0.5."""
    ap = evaluate.evaluate(truth, found)['Car']['3d']['AP40']
    return {'AP 0.7': round(ap['strict'][1], 2), 'AP 0.5': round(ap['loose'][1], 2)}


def show(rows: list[dict]) -> None:
    """Print the table, each AP also as share of that at the lens that was learnt."""
    table = Table(title='Car 3D AP40, moderate', title_justify='left')
    for name in rows[0]:
        table.add_column(name, justify='left' if name == 'depth' else 'right')
    native = {row['depth']: row for row in rows if row['focal length'] == 1.0}
    for row in rows:
        own = native[row['depth']]
        cells = [f'{row[k]:.2f} ({row[k] / max(own[k], 1e-9):.0%})' for k in row if 'AP' in k]
        table.add_row(row['depth'], f'{row["focal length"]:g}x', *cells)
    Console().print(table)


if __name__ == '__main__':
    main()
