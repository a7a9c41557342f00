"""Train the runs of a study, one after the other or in parallel processes."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO

from stl_core.data.worker_pool import available_cpus, map_as_completed, with_progress
from stl_core.evaluation.metric import MetricResults
from stl_core.experiments.study_plan import StudyRun
from stl_core.training import resolved_config, stages
from stl_core.training.config import TrainConfig

log = logging.getLogger(__name__)


def train_runs(
    pending: Sequence[StudyRun], num_jobs: int
) -> Generator[tuple[StudyRun, MetricResults | None], None, None]:
    """Train runs; yield each with its results as soon as it is finished."""
    if num_jobs == 1:
        for study_run in _log_progress(pending):
            yield study_run, _run(study_run.config)
        return
    configs = [study_run.config for study_run in pending]
    parallel = max(1, min(num_jobs, len(pending)))
    completed = map_as_completed(
        _run_in_process, configs, num_jobs, threads=max(1, available_cpus() // parallel)
    )
    # closed at once, not by the garbage collector, so that no run keeps training
    with (
        contextlib.closing(completed),
        contextlib.closing(with_progress(completed, len(pending), 'runs')) as results,
    ):
        for index, run_results in results:
            yield pending[index], run_results


def _run(config: TrainConfig) -> MetricResults | None:
    """Train one run; its model files must still have the digests of the start of the study."""
    return stages.run_stage(resolved_config.resolve_config(config))


def _run_in_process(config: TrainConfig) -> MetricResults | None:
    """Train one of several parallel runs; its output goes to log.txt in its folder."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / 'log.txt').open('a', buffering=1) as file, contextlib.redirect_stdout(file):
        with _log_to_file(file):
            try:
                return _run(config)
            except Exception:
                log.exception('the run failed')
                raise


@contextlib.contextmanager
def _log_to_file(file: IO[str]) -> Iterator[None]:
    """Log also to a file within the context: a spawned process has no logging configuration."""
    root, handler = logging.getLogger(), logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _log_progress(pending: Sequence[StudyRun]) -> Iterator[StudyRun]:
    """Yield the runs; log the name of each before it, and the estimated remaining time."""
    began = time.monotonic()
    for done, study_run in enumerate(pending):
        passed_s = time.monotonic() - began
        rest = (
            f', {passed_s / done * (len(pending) - done) / 60:.0f} minutes to go' if done else ''
        )
        log.info(
            'run %d of %d: %s, seed %d%s',
            done + 1,
            len(pending),
            *(study_run.method, study_run.config.seed),
            rest,
        )
        yield study_run
