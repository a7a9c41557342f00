"""
nuScenes' own devkit as the judge; the only file that imports it.

Its metadata forbid NumPy 2, with which it works: install the extra `nuscenes`, then
`pip install --no-deps nuscenes-devkit==1.2.0`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stl_core.evaluation.nuscenes.checks import boxes_by_sample, height_errors, suspicions
from stl_core.evaluation.nuscenes.names import CLASSES
from stl_core.evaluation.nuscenes.result import TP_ERRORS, ClassResult, NuscenesResult
from stl_core.evaluation.nuscenes.results import ResultsError

#: Configuration of the benchmark.
CONFIG = 'detection_cvpr_2019'
INSTALL = "pip install 'mono3d_ros[nuscenes]' and pip install --no-deps nuscenes-devkit==1.2.0"


class DevkitError(RuntimeError):
    """The devkit is missing, or cannot read the database."""


class Devkit:
    """A database loaded by the devkit, which judges detections on it."""

    def __init__(self, root: str | Path, version: str) -> None:
        """
        Load the tables.

        :param root: folder of the data set.
        :param version: name of the version's folder.
        :raises DevkitError: if the devkit is missing, or one of its own packages.
        """
        try:
            from nuscenes.nuscenes import NuScenes
        except ImportError as err:
            raise DevkitError(f'nuScenes is judged by its devkit: {err}; {INSTALL}') from err
        self.root, self.version = Path(root), version
        try:
            self.database: Any = NuScenes(version, str(root), verbose=False)
        except (AssertionError, OSError, KeyError, ValueError) as err:
            raise DevkitError(f'{root}/{version}: the devkit cannot read it: {err}') from err

    def evaluate(
        self, results: Mapping[str, Any], split: str, notes: tuple[str, ...] = ()
    ) -> NuscenesResult:
        """
        Judge detections on a split.

        :param results: content of a results file, see results.build_results.
        :param split: one of the benchmark's splits, or of the version's splits.json.
        :param notes: notes that belong to the results, such as ResultsCounts.notes.
        :raises ResultsError: for results that the devkit refuses, such as those of other samples.
        """
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import DetectionEval

        config = config_factory(CONFIG)
        if not any(results['results'].values()):
            return _nothing_detected(len(results['results']), config, notes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'results.json'
            path.write_text(json.dumps(results))
            try:
                judge = DetectionEval(
                    self.database, config, str(path), split, str(Path(folder) / 'out'), False
                )
            except (AssertionError, ValueError) as err:
                raise ResultsError(
                    f'the devkit refuses these results on {split!r}: {err}'
                ) from err
            metrics, _ = judge.evaluate()
        return _as_result(judge, metrics, notes)


def _as_result(judge: Any, metrics: Any, notes: tuple[str, ...]) -> NuscenesResult:
    truth, found = (
        [
            (box.sample_token, box.detection_name, box.detection_score, box.translation, box.size)
            for box in boxes.all
        ]
        for boxes in (judge.gt_boxes, judge.pred_boxes)
    )
    heights = height_errors(boxes_by_sample(truth), boxes_by_sample(found))
    by_class = _class_results(metrics, truth, found)
    absent = [name for name, each in by_class.items() if not each.ground_truth]
    # of absent classes the devkit takes an error of 1
    turns = [each.tp_errors['orient_err'] for each in by_class.values() if each.ground_truth]
    turns = [each for each in turns if not math.isnan(each)]
    listed = [f'no labels of {", ".join(absent)}: their AP is 0, also in mAP and NDS'] * bool(
        absent
    )
    return NuscenesResult(
        mean_ap=float(metrics.mean_ap),
        nds=float(metrics.nd_score),
        tp_errors={name: float(metrics.tp_errors[name]) for name in TP_ERRORS},
        by_class=by_class,
        samples=len(judge.sample_tokens),
        height_error_m=heights.median_m,
        notes=(
            *listed,
            *suspicions(sum(turns) / max(len(turns), 1), heights),
            *notes,
        ),
    )


def _class_results(metrics: Any, truth: list[Any], found: list[Any]) -> dict[str, ClassResult]:
    labels, detections = (Counter(row[1] for row in rows) for rows in (truth, found))
    return {
        name: ClassResult(
            {
                str(distance): float(metrics.get_label_ap(name, distance))
                for distance in metrics.cfg.dist_ths
            },
            {key: float(metrics.get_label_tp(name, key)) for key in TP_ERRORS},
            labels[name],
            detections[name],
        )
        for name in CLASSES
    }


def _nothing_detected(samples: int, config: Any, notes: tuple[str, ...]) -> NuscenesResult:
    """Return the figures of results without a box, which the devkit cannot evaluate."""
    worst = ClassResult(
        {str(distance): 0.0 for distance in config.dist_ths}, dict.fromkeys(TP_ERRORS, 1.0), 0, 0
    )
    note = f'nothing was detected in {samples} samples'
    return NuscenesResult(
        *(0.0, 0.0, dict.fromkeys(TP_ERRORS, 1.0), dict.fromkeys(CLASSES, worst), samples),
        float('nan'),
        (note, *notes),
    )
