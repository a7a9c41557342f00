"""
Synthesize a nuScenes database, in parallel.

A sample depends on the seed, its scene and its number only. Its records are kept in a file beside
its pictures until all samples are there, so that an interrupted run resumes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from stl_core.data.synthetic.nuscenes import rig
from stl_core.data.synthetic.nuscenes.sample import (
    DatabaseJob,
    SampleRecord,
    sample_from_json,
    write_sample,
)
from stl_core.data.synthetic.nuscenes.tables import CATEGORIES, write_tables
from stl_core.data.synthetic.writer import claim_folder
from stl_core.data.worker_pool import describe_workers, map_ordered, with_progress
from stl_core.evaluation.nuscenes.names import CATEGORY_CLASSES, CLASSES, LIDAR
from stl_core.files import write_atomically

#: Folder of the records of finished samples; removed when the tables are written.
RECORDS = 'unfinished'


def synthesize_database(
    job: DatabaseJob, samples: int, workers: int, show_progress: bool = True
) -> str:
    """
    Synthesize a database of ceil(samples / job.samples_per_scene) scenes.

    :param job: settings.
    :param samples: number of samples in all.
    :param workers: number of processes; 0 runs everything in this one.
    :param show_progress: whether to draw a progress bar.
    :return: what it holds, in one line.
    :raises DataError: if the folder holds a data set made with other settings.
    """
    root = Path(job.out)
    claim_folder(root, {**asdict(job), 'out': '', 'device': '', 'samples': samples})
    for folder in ('samples', 'sweeps') if job.sweeps else ('samples',):
        for channel in (*(each.channel for each in rig.RIG), LIDAR):
            (root / folder / channel).mkdir(parents=True, exist_ok=True)
    (root / RECORDS).mkdir(exist_ok=True)
    numbers = [divmod(index, job.samples_per_scene) for index in range(samples)]
    jobs = map_ordered(_SampleWriter(job), numbers, workers)
    text = f'samples ({describe_workers(workers)})'
    records = list(with_progress(jobs, samples, text, show_progress))
    write_tables(job, records)
    shutil.rmtree(root / RECORDS)
    return _summary(job, records)


@dataclass(frozen=True)
class _SampleWriter:
    """Writes samples by (scene, number); picklable, for worker processes."""

    job: DatabaseJob

    def __call__(self, place: tuple[int, int]) -> SampleRecord:
        path = Path(self.job.out) / RECORDS / f'{place[0]:04d}_{place[1]:03d}.json'
        if path.exists():
            return sample_from_json(json.loads(path.read_text()))
        record = write_sample(self.job, *place)
        write_atomically(path, json.dumps(record.to_json()).encode())
        return record


def _summary(job: DatabaseJob, records: list[SampleRecord]) -> str:
    classes = Counter(CATEGORY_CLASSES[CATEGORIES[b.name]] for r in records for b in r.boxes)
    points = sum(box.num_points for record in records for box in record.boxes)
    listed = ', '.join(f'{name} {classes[name]}' for name in CLASSES if classes[name])
    absent = ', '.join(name for name in CLASSES if not classes[name])
    scenes, images = len({record.scene for record in records}), len(records) * len(rig.RIG)
    return (
        f'{scenes} scenes, {len(records)} samples, {images} pictures of {job.width_px}x'
        f'{job.height_px}, {sum(classes.values())} boxes ({listed}) with {points} points; no'
        f' {absent}'
    )
