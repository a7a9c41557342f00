"""Evaluate one bag, or several bags in parallel, each into its own output folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mono3d_ros.bag_evaluation import label_score, replay, report_writer, results
from mono3d_ros.bag_evaluation.offline_detector import ResultCallback, ignore_result
from mono3d_ros.bag_evaluation.replay import EvaluationOptions, ReplayResult
from mono3d_ros.bags.bag_io import BagError, BagReader, require_absent
from mono3d_ros.bags.cameras.choice import find_cameras
from mono3d_ros.bags.drive_reader import DriveSample
from mono3d_ros.messages import rectification
from mono3d_ros.perception import model_loading
from mono3d_ros.perception.pipeline import PredictorProtocol
from stl_core.data.frame_source import DataError
from stl_core.data.worker_pool import available_cpus, describe_workers, map_as_completed
from stl_core.files import atomic_folder, parent_folders, sha256_of
from stl_core.progress import progress_bar

#: Value of the parameter `rectified` -> images_are in the metadata of a run.
IMAGES_ARE = {
    rectification.AUTO: 'auto',
    rectification.RECTIFIED: 'rectified',
    rectification.RAW: 'raw',
}


class ModelError(ValueError):
    """A model file cannot be used; the message names it."""


class ModelRef(NamedTuple):
    """A model file and its device: auto, cpu, cuda or cuda:N."""

    path: Path
    device: str

    def load(self) -> PredictorProtocol:
        """Load the model and run it once; ModelError if the file cannot be used."""
        try:
            predictor = model_loading.load_model(self.path, self.device)
            model_loading.warm_up(predictor)
        except model_loading.LOAD_ERRORS as err:
            raise ModelError(f'{self.path}: {" ".join(str(err).split())}') from err
        return predictor


class BagResult(NamedTuple):
    """Results of a bag and their score against the labels; box_score is None without labels."""

    replay_result: ReplayResult
    box_score: label_score.BoxScore | None


#: Errors that a user can fix: reported on one line, without a traceback.
INPUT_ERRORS = (BagError, DataError, ModelError, OSError)


def evaluate_one_bag(
    bag: Path,
    out: Path,
    model: ModelRef,
    options: EvaluationOptions,
    on_result: ResultCallback = ignore_result,
) -> BagResult:
    """
    Evaluate one bag into a new folder, complete or not at all.

    :param bag: folder or file.
    :param out: the new folder.
    :param model: the model file and its device.
    :param options: options of the evaluation.
    :param on_result: called with every processed image.
    :return: results without the pictures, which are in the folder, and the score.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    :raises ModelError: for a model file that cannot be used.
    """
    require_absent(out)
    with BagReader(bag) as reader:  # report a bad bag before loading the model
        find_cameras(reader, options.query)
    predictor = model.load()
    require_absent(out)  # loading takes seconds
    with atomic_folder(out) as folder, progress_bar() as bar:

        def track(samples: Iterable[DriveSample], total: int) -> Iterable[DriveSample]:
            name = f'{bag.name} ({describe_workers(0, _threads_per_job(1))})'
            task = bar.add_task(name, total=total, note='')
            return bar.track(samples, total=total, task_id=task)

        result = replay.replay_bag(
            bag, folder / 'answers', predictor, options, track_progress=track, on_result=on_result
        )
        title = f'{model.path.name} on {bag.name}'
        metadata = run_metadata([bag], model, options)
        box_score = report_writer.write_report(
            folder, title, metadata, result, options.metric_names
        )
    return BagResult(replace(result, pictures={}), box_score)


def evaluate_bags(
    bags: Sequence[Path], out: Path, model: ModelRef, options: EvaluationOptions, jobs: int
) -> tuple[BagResult, list[str]]:
    """
    Evaluate bags in parallel, each into a folder of its name, and write a joint report.

    :param bags: at least one bag.
    :param out: the new folder.
    :param model: the model file and its device.
    :param options: options of the evaluation.
    :param jobs: number of processes.
    :return: joint results of the usable bags, and a one-line error for each of the others.
    :raises BagError: if no bag can be used.
    """
    require_absent(out)
    bag_results: dict[Path, BagResult] = {}
    error_by_bag: dict[Path, str] = {}
    with parent_folders(out):
        parallel = _evaluate_in_parallel(bags, out, model, options, jobs)
        try:
            with contextlib.closing(parallel) as results:
                for bag, result in results:
                    if isinstance(result, BagResult):
                        bag_results[bag] = result
                    else:
                        error_by_bag[bag] = result
        except BrokenProcessPool as err:
            died = 'a worker process died (out of memory?); use fewer --jobs'
            if not bag_results:
                raise BagError(died) from err
            unfinished = [each for each in bags if each not in bag_results | error_by_bag]
            error_by_bag |= {each: f'{each}: not evaluated: {died}' for each in unfinished}
        errors = [error_by_bag[each] for each in bags if each in error_by_bag]
        if not bag_results:
            others = ', '.join(each.name for each in bags if error_by_bag[each] != errors[0])
            raise BagError(
                f'{errors[0]}; no other bag can be used ({others})' if others else errors[0]
            )
        used = [each for each in bags if each in bag_results]
        joined = _join_replays([bag_results[each].replay_result for each in used])
        title = f'{model.path.name} on {len(used)} bags'
        metadata = run_metadata(used, model, options)
        box_score = report_writer.write_report(out, title, metadata, joined, options.metric_names)
    return BagResult(joined, box_score), errors


def run_metadata(
    bags: Sequence[Path], model: ModelRef, options: EvaluationOptions
) -> dict[str, Any]:
    """Return the bags, the model and the options that determine the results."""
    return {
        'bags': [each.name for each in bags],
        'model': model.path.name,
        'model_sha256': sha256_of(model.path),
        'score_threshold': options.params.score_threshold,
        'images_are': IMAGES_ARE[options.params.rectified],
        'one_image_of': options.query.every,
        'scans_within_s': options.query.max_offset_s,
        'one_moment_within_s': options.params.max_apart_s,
        'max_overlap_across': options.params.max_overlap_across,
        'vehicle_frame': options.query.vehicle_frame,
        'tracked_in': options.query.fixed_frame if options.params.tracking else None,
    }


@dataclass(frozen=True)
class _EvaluateBag:
    """Evaluates a bag in a worker process, into a folder of its name."""

    folder: Path
    model: ModelRef
    options: EvaluationOptions

    def __call__(self, bag: Path) -> BagResult | str:
        """Return the result, or an error on one line: no bag ends the evaluation of others."""
        try:
            return evaluate_one_bag(bag, self.folder / bag.name, self.model, self.options)
        except INPUT_ERRORS as err:
            return str(err)
        except Exception as err:  # a fault of this package: named with its place in the code
            place = traceback.extract_tb(err.__traceback__)[-1]
            reason = f'{type(err).__name__}: {" ".join(str(err).split())[:200]}'
            return f'{bag}: {reason} ({Path(place.filename).name}:{place.lineno})'


def _evaluate_in_parallel(
    bags: Sequence[Path], out: Path, model: ModelRef, options: EvaluationOptions, jobs: int
) -> Generator[tuple[Path, BagResult | str], None, None]:
    """
    Evaluate bags in worker processes; yield each with its result or error when it is ready.

    The parent of `out` must exist.
    """
    with (
        # workers that are stopped cannot remove their files
        tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as staging,
        progress_bar() as bar,
        contextlib.closing(
            map_as_completed(
                _EvaluateBag(Path(staging), model, options), bags, jobs, _threads_per_job(jobs)
            )
        ) as results,
    ):
        name = f'bags ({describe_workers(jobs, _threads_per_job(jobs))})'
        task = bar.add_task(name, total=len(bags), note='')
        for index, result in results:
            bag = bags[index]
            if isinstance(result, BagResult):
                out.mkdir(exist_ok=True)
                (Path(staging) / bag.name).replace(out / bag.name)
            bar.update(task, advance=1, note=bag.name)
            yield bag, result


def _join_replays(parts: Sequence[ReplayResult]) -> ReplayResult:
    """Concatenate results and timings, without pictures."""
    timings_ms: dict[str, list[float]] = {}
    for part in parts:
        for stage, each in part.timings_ms.items():
            timings_ms.setdefault(stage, []).extend(each)
    return ReplayResult(
        results.join_results([part.drive_results for part in parts]),
        timings_ms,
        {},
        tuple(report for part in parts for report in part.reports),
    )


def _threads_per_job(jobs: int) -> int:
    """Return the threads of each process: OMP_NUM_THREADS if set, else its part of the CPUs."""
    given = os.environ.get('OMP_NUM_THREADS', '')
    return int(given) if given.isdecimal() and int(given) else max(1, available_cpus() // jobs)
