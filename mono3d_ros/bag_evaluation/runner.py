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

from mono3d_ros.bag_evaluation import label_score, replay, report_writer, results
from mono3d_ros.bag_evaluation.offline_detector import ResultCallback, ignore_result
from mono3d_ros.bag_evaluation.replay import EvaluationOptions, ReplayResult
from mono3d_ros.bags.bag_io import BagError, BagReader, require_absent
from mono3d_ros.bags.drive_reader import DriveSample, choose_cameras
from mono3d_ros.bags.output_folder import atomic_folder
from mono3d_ros.messages.rectification import passthrough_image
from mono3d_ros.perception import model_loading
from mono3d_ros.perception.pipeline import PredictorProtocol
from stl_core.data.sources.kitti import DataError
from stl_core.progress import progress_bar


class ModelError(ValueError):
    """A student that cannot be used; the message names it."""


class ModelRef(NamedTuple):
    """A student file, and where it runs: auto, cpu, cuda or cuda:N."""

    path: Path
    device: str

    def load(self) -> PredictorProtocol:
        """Load it and run it once; ModelError for one that cannot be used."""
        try:
            predictor = model_loading.load_model(self.path, self.device)
            model_loading.warm_up(predictor)
        except model_loading.LOAD_ERRORS as err:
            raise ModelError(f'{self.path}: {" ".join(str(err).split())}') from err
        return predictor


class BagResult(NamedTuple):
    """What came out, and how right it was; None without labels."""

    replay_result: ReplayResult
    box_score: label_score.BoxScore | None


#: What a user can mend: told in one line, without a traceback.
INPUT_ERRORS = (BagError, DataError, ModelError, OSError)


def evaluate_one_bag(
    bag: Path,
    out: Path,
    model: ModelRef,
    options: EvaluationOptions,
    on_result: ResultCallback = ignore_result,
) -> BagResult:
    """
    Evaluate one bag into a new folder; it appears whole or not at all.

    :param bag: folder or file.
    :param out: the new folder.
    :param model: the network.
    :param options: how.
    :param on_result: is shown every answer.
    :return: what came out, the pictures only drawn.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    :raises ModelError: for a student that cannot be used.
    """
    require_absent(out)
    with BagReader(bag) as reader:  # what is wrong with a bag is told before a network is loaded
        choose_cameras(reader.topics, options.query, bag)
    predictor = model.load()
    with atomic_folder(out) as folder, progress_bar() as bar:

        def track(sights: Iterable[DriveSample], total: int) -> Iterable[DriveSample]:
            task = bar.add_task(bag.name, total=total, note='')
            return bar.track(sights, total=total, task_id=task)

        answers = folder / 'answers'
        found = replay.replay_bag(
            bag, answers, predictor, options, track_progress=track, on_result=on_result
        )
        title = f'{bag.name} by {model.path.name}'
        judged = report_writer.write_report(
            folder, title, run_metadata([bag], model, options), found
        )
    return BagResult(replace(found, pictures={}), judged)


def evaluate_bags(
    bags: Sequence[Path], out: Path, model: ModelRef, options: EvaluationOptions, jobs: int
) -> tuple[BagResult, list[str]]:
    """
    Evaluate bags side by side, each into a folder of its name, and all of them together.

    :param bags: at least one.
    :param out: the new folder.
    :param model: the network.
    :param options: how.
    :param jobs: how many at a time.
    :return: what came out of those that can be used, and why others cannot, a line each.
    :raises BagError: where none can be used.
    """
    require_absent(out)
    found: dict[Path, BagResult] = {}
    faults: dict[Path, str] = {}
    for bag, done in _evaluate_in_parallel(bags, out, model, options, jobs):
        try:
            found[bag] = done.result()
        except INPUT_ERRORS as err:
            faults[bag] = str(err)
    told = [faults[each] for each in bags if each in faults]
    if not found:
        raise BagError(told[0])
    used = [each for each in bags if each in found]
    joined = _join_replays([found[each].replay_result for each in used])
    title = f'{len(used)} bags by {model.path.name}'
    judged = report_writer.write_report(out, title, run_metadata(used, model, options), joined)
    return BagResult(joined, judged), told


def run_metadata(
    bags: Sequence[Path], model: ModelRef, options: EvaluationOptions
) -> dict[str, Any]:
    """Tell what is examined by what, and what decides about the outcome."""
    return {
        'bags': [each.name for each in bags],
        'model': model.path.name,
        'model_sha256': hashlib.sha256(model.path.read_bytes()).hexdigest(),
        'score_threshold': options.params.score_threshold,
        'images_are': 'rectified' if options.rectifier is passthrough_image else 'raw',
        'one_image_of': options.query.every,
        'scans_within_s': options.query.max_offset_s,
        'one_moment_within_s': options.params.max_apart_s,
        'max_overlap_across': options.params.max_overlap_across,
        'vehicle_frame': options.query.vehicle_frame,
        'tracked_in': options.query.fixed_frame if options.params.tracking else None,
    }


def _evaluate_in_parallel(
    bags: Sequence[Path], out: Path, model: ModelRef, options: EvaluationOptions, jobs: int
) -> Iterator[tuple[Path, Future[BagResult]]]:
    """Evaluate bags in processes of their own; each comes when it is done."""
    # forked processes would inherit the threads of OpenCV and torch in whatever state they are
    context = multiprocessing.get_context('spawn')
    with (
        progress_bar() as bar,
        ProcessPoolExecutor(jobs, context, _limit_threads, (jobs,)) as pool,
    ):
        task = bar.add_task('bags', total=len(bags), note='')
        running = {
            pool.submit(evaluate_one_bag, bag, out / bag.name, model, options): bag for bag in bags
        }
        try:
            for done in as_completed(running):
                yield running[done], done
                bar.update(task, advance=1, note=running[done].name)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _join_replays(parts: Sequence[ReplayResult]) -> ReplayResult:
    timings_ms: dict[str, list[float]] = {}
    for part in parts:
        for stage, each in part.timings_ms.items():
            timings_ms.setdefault(stage, []).extend(each)
    return ReplayResult(
        results.join_results([part.drive_results for part in parts]), timings_ms, {}
    )


def _limit_threads(jobs: int) -> None:
    """Leave the other processes their cores; read by torch, which comes later."""
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // jobs)))
