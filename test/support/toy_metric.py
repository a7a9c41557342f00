"""
A metric for tests: recall at 2D IoU 0.5 by class, and the number of detections per frame.

METRICS['toy'] = toy_metric.METRIC registers it.
"""

from dataclasses import asdict, dataclass

import numpy as np

from stl_core.evaluation.error_matching import match_by_box_iou
from stl_core.evaluation.metric import Metric


@dataclass(frozen=True)
class ToyResult:
    recall: dict[str, float]
    detections_per_frame: float

    def rows(self):
        return [{'class': name, 'recall': value} for name, value in self.recall.items()]

    def columns(self):
        return {'recall': mean(self.recall.values()), 'density': self.detections_per_frame}

    def to_json(self):
        return asdict(self)


def evaluate(ground_truth, detections, classes):
    """Compute the recall in percent; 0 for a class without labels."""
    found, labelled = [], []
    for labels, detected in zip(ground_truth, detections, strict=True):
        found += labels.name[match_by_box_iou(labels, detected)[0]].tolist()
        labelled += labels.name.tolist()
    recall = {name: 100 * found.count(name) / max(labelled.count(name), 1) for name in classes}
    return ToyResult(recall, mean([len(each) for each in detections]))


def parse_selection(text, classes):
    """Parse the name of a column: 'recall' or 'density'."""
    if text not in ('recall', 'density'):
        raise ValueError(f'metric: {text!r} of toy is unknown; known: recall, density')
    return lambda result: result.columns()[text]


def mean(values):
    return float(np.mean(list(values)))


METRIC = Metric(evaluate, parse_selection, lambda data: ToyResult(**data))
