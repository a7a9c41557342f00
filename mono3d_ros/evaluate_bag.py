"""
The command evaluate_bag: what a student says to a recorded drive, and how right it is; no ROS.

Every image is answered by the code of the node, so nothing is lost and the same command makes the
same answers/ and figures.json, byte for byte. OUT/answers is a bag of its own: /detector/CAMERA/
markers and detections beside camera_info and tf. Labels come from CAMERA/ground_truth/labels of
the bag, where it has them, or from a folder of KITTI files, as many as there are images. BAG may
be a folder of bags: each gets its folder in OUT, and OUT tells of all of them together.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from mono3d_ros import evidence, examination, findings, network, score
from mono3d_ros.bag import STORAGES, BagError, BagReader, refuse_existing
from mono3d_ros.calibration import as_rectified, rectify
from mono3d_ros.examination import AUTO, TOPIC, Findings, Plan
from mono3d_ros.new_folder import new_folder
from mono3d_ros.params import Params
from mono3d_ros.pipeline import Predictor
from mono3d_ros.playback import Sight, Wish, choose_cameras, rectified_first, rectified_last
from stl_core.data.kitti import DataError
from stl_core.progress import progress_bar

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130


class ModelError(ValueError):
    """A student that cannot be used; the message names it."""


class Student(NamedTuple):
    """A student file, and where it runs: auto, cpu, cuda or cuda:N."""

    model: Path
    device: str

    def load(self) -> Predictor:
        """Load it and run it once; ModelError for one that cannot be used."""
        try:
            predictor = network.load_student(self.model, self.device)
            network.warm_up(predictor)
        except network.LOAD_ERRORS as err:
            raise ModelError(f'{self.model}: {" ".join(str(err).split())}') from err
        return predictor


class Outcome(NamedTuple):
    """What came out, and how right it was; None without labels."""

    findings: Findings
    judged: score.Score | None


#: What a user can mend: told in one line, without a traceback.
BAD_INPUT = (BagError, DataError, ModelError, OSError)


def list_bags(path: Path) -> list[Path]:
    """Return the bags in a folder of bags, in order of their names; none where it is a bag."""
    if not path.is_dir() or (path / 'metadata.yaml').exists():
        return []
    return sorted(
        each
        for each in path.iterdir()
        if (each / 'metadata.yaml').exists() or each.suffix in ('.mcap', '.db3')
    )


def evaluate(bag: Path, out: Path, student: Student, plan: Plan) -> Outcome:
    """
    Evaluate one bag into a new folder; it appears whole or not at all.

    :param bag: folder or file.
    :param out: the new folder.
    :param student: the network.
    :param plan: how.
    :return: what came out, the pictures only drawn.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    :raises ModelError: for a student that cannot be used.
    """
    refuse_existing(out)
    with BagReader(bag) as reader:  # what is wrong with a bag is told before a network is loaded
        choose_cameras(reader.topics, plan.wish, bag)
    predictor = student.load()
    with new_folder(out) as folder, progress_bar() as bar:

        def track(sights: Iterable[Sight], total: int) -> Iterable[Sight]:
            task = bar.add_task(bag.name, total=total, note='')
            return bar.track(sights, total=total, task_id=task)

        found = examination.examine(bag, folder / 'answers', predictor, plan, track)
        title = f'{bag.name} by {student.model.name}'
        judged = findings.write(folder, title, about([bag], student, plan), found)
    return Outcome(replace(found, pictures={}), judged)


def evaluate_all(
    bags: Sequence[Path], out: Path, student: Student, plan: Plan, jobs: int
) -> tuple[Outcome, list[str]]:
    """
    Evaluate bags side by side, each into a folder of its name, and all of them together.

    :param bags: at least one.
    :param out: the new folder.
    :param student: the network.
    :param plan: how.
    :param jobs: how many at a time.
    :return: what came out of those that can be used, and why others cannot, a line each.
    :raises BagError: where none can be used.
    """
    refuse_existing(out)
    found: dict[Path, Outcome] = {}
    faults: dict[Path, str] = {}
    for bag, done in _side_by_side(bags, out, student, plan, jobs):
        try:
            found[bag] = done.result()
        except BAD_INPUT as err:
            faults[bag] = str(err)
    told = [faults[each] for each in bags if each in faults]
    if not found:
        raise BagError(told[0])
    used = [each for each in bags if each in found]
    joined = _join([found[each].findings for each in used])
    title = f'{len(used)} bags by {student.model.name}'
    judged = findings.write(out, title, about(used, student, plan), joined)
    return Outcome(joined, judged), told


def about(bags: Sequence[Path], student: Student, plan: Plan) -> dict[str, Any]:
    """Tell what is examined by what, and what decides about the outcome."""
    return {
        'bags': [each.name for each in bags],
        'model': student.model.name,
        'model_sha256': hashlib.sha256(student.model.read_bytes()).hexdigest(),
        'score_threshold': plan.params.score_threshold,
        'images_are': 'rectified' if plan.door is as_rectified else 'raw',
        'one_image_of': plan.wish.every,
        'scans_within_s': plan.wish.max_offset_s,
    }


def _side_by_side(
    bags: Sequence[Path], out: Path, student: Student, plan: Plan, jobs: int
) -> Iterator[tuple[Path, Future[Outcome]]]:
    """Evaluate bags in processes of their own; each comes when it is done."""
    # forked processes would inherit the threads of OpenCV and torch in whatever state they are
    context = multiprocessing.get_context('spawn')
    with (
        progress_bar() as bar,
        ProcessPoolExecutor(jobs, context, _share_cores, (jobs,)) as pool,
    ):
        task = bar.add_task('bags', total=len(bags), note='')
        running = {pool.submit(evaluate, bag, out / bag.name, student, plan): bag for bag in bags}
        try:
            for done in as_completed(running):
                yield running[done], done
                bar.update(task, advance=1, note=running[done].name)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _join(parts: Sequence[Findings]) -> Findings:
    timings_ms: dict[str, list[float]] = {}
    for part in parts:
        for stage, each in part.timings_ms.items():
            timings_ms.setdefault(stage, []).extend(each)
    return Findings(evidence.join([part.evidence for part in parts]), timings_ms, {})


def _share_cores(jobs: int) -> None:
    """Leave the other processes their cores; read by torch, which comes later."""
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // jobs)))


def _no_share(package: str) -> str:
    raise LookupError(package)  # that is ROS's matter


def _tell(outcome: Outcome, out: Path) -> None:
    """Print the figures and where everything lies."""
    console = Console()
    known = outcome.findings.evidence
    if outcome.judged:
        _print_table(console, 'against the labels', score.HEADINGS, outcome.judged.rows())
    rows = []
    for name, ranges in evidence.lidar_rows(known).items():
        if (whole := ranges[-1])['checked']:
            numbers = [f'{whole[key]:g}' for key in list(whole)[2:]]
            rows.append((name, *numbers))
    headings = ('class', 'boxes', 'checked', 'median error (m)', 'median off', '90%', 'within 1 m')
    if rows:
        _print_table(console, 'boxes against the scans', headings, rows)
    for why, count in known.skipped.items():
        console.print(f'{count} left out: {why}', markup=False)
    boxes = sum(len(each.sent) for each in known.answers)
    console.print(f'{len(known.answers)} images, {boxes} boxes: {out}', markup=False)


def _print_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    table = Table(title=title, title_justify='left')
    for number, heading in enumerate(headings):
        table.add_column(heading, justify='right' if number else 'left')
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser('evaluate_bag', description=__doc__.split('\n')[1])
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3, or a folder of bags')
    parser.add_argument('out', type=Path, help='the new folder')
    parser.add_argument('--model', default=Params().model, help='student file')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--camera', default='', help='the only one: its namespace or image topic')
    parser.add_argument('--rectify', action='store_true', help='the images are raw: rectify them')
    parser.add_argument(
        '--labels', default=AUTO, help='auto, topic (must be there) or a folder of label files'
    )
    parser.add_argument('--cloud', default='', help='topic of the scans; default: the first')
    parser.add_argument('--max-offset', type=float, default=0.05, help='of a scan, seconds')
    parser.add_argument('--every', type=int, default=1, help='only the first image of so many')
    parser.add_argument('--score', type=float, default=Params().score_threshold, help='least sent')
    parser.add_argument('--pictures', type=int, default=8, help='how many images are drawn')
    parser.add_argument('--copy', action='store_true', help='copy images, scans and labels')
    parser.add_argument('--storage', choices=tuple(STORAGES), default='mcap', help='of answers')
    parser.add_argument('--jobs', type=int, default=1, help='bags at a time')
    return parser


def _read_plan(args: argparse.Namespace) -> Plan:
    door, order = (rectify, rectified_last) if args.rectify else (as_rectified, rectified_first)
    if args.pictures < 0:
        raise BagError(f'--pictures {args.pictures}: expected 0 or more')
    if args.jobs < 1:
        raise BagError(f'--jobs {args.jobs}: expected 1 or more')
    try:
        params = Params(score_threshold=args.score)
    except ValueError as err:
        raise BagError(f'--score {args.score:g}: {err}') from err
    return Plan(
        Wish(args.camera, order, args.cloud, args.every, args.max_offset),
        door,
        params,
        labels=args.labels,
        pictures=args.pictures,
        storage=args.storage,
        copied=args.copy,
    )


def _run(args: argparse.Namespace) -> list[str]:
    """Do what the command line says -> why some of several bags cannot be used."""
    plan, bags = _read_plan(args), list_bags(args.bag)
    faults: list[str] = []
    try:
        student = Student(network.find_model(args.model, _no_share), args.device)
    except ValueError as err:
        raise ModelError(str(err)) from err
    if bags and plan.labels not in (AUTO, TOPIC):
        raise BagError(f'{plan.labels}: label files are of one bag, but {args.bag} has several')
    if bags:
        outcome, faults = evaluate_all(bags, args.out, student, plan, args.jobs)
    else:
        outcome = evaluate(args.bag, args.out, student, plan)
    _tell(outcome, args.out)
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one line for bad input."""
    args = _parser().parse_args(argv)
    try:
        faults = _run(args)
    except BAD_INPUT as err:
        faults = [str(err)]
    except KeyboardInterrupt:
        print('evaluate_bag: stopped; of the bag at hand nothing was written', file=sys.stderr)
        return EXIT_STOPPED
    for fault in faults:
        print(f'evaluate_bag: {fault}', file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


if __name__ == '__main__':
    sys.exit(main())
