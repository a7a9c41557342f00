"""One bag, or several side by side, evaluated into folders of their own."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mono3d_ros.bag_evaluation import label_score as score
from mono3d_ros.bag_evaluation import replay as examination
from mono3d_ros.bag_evaluation import report_writer as findings
from mono3d_ros.bag_evaluation import results as evidence
from mono3d_ros.bag_evaluation.offline_detector import Show, to_nobody
from mono3d_ros.bag_evaluation.replay import Findings, Plan
from mono3d_ros.bags.bag_io import BagError, BagReader, refuse_existing
from mono3d_ros.bags.drive_reader import Sight, choose_cameras
from mono3d_ros.bags.output_folder import new_folder
from mono3d_ros.messages.rectification import as_rectified
from mono3d_ros.perception import model_loading as network
from mono3d_ros.perception.pipeline import Predictor
from stl_core.data.sources.kitti import DataError
from stl_core.progress import progress_bar


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


def evaluate(
    bag: Path, out: Path, student: Student, plan: Plan, show: Show = to_nobody
) -> Outcome:
    """
    Evaluate one bag into a new folder; it appears whole or not at all.

    :param bag: folder or file.
    :param out: the new folder.
    :param student: the network.
    :param plan: how.
    :param show: is shown every answer.
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

        answers = folder / 'answers'
        found = examination.examine(bag, answers, predictor, plan, track=track, show=show)
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
        'one_moment_within_s': plan.params.max_apart_s,
        'max_overlap_across': plan.params.max_overlap_across,
        'vehicle_frame': plan.wish.vehicle_frame,
        'tracked_in': plan.wish.fixed_frame if plan.params.tracking else None,
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
