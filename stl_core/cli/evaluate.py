"""
The commands `stl evaluate`, `kitti-ap` and `nuscenes-eval`: AP of a model, and of result files.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stl_core.cli.frame_options import add_clear_option, add_frame_options, list_images
from stl_core.cli.models import add_model_argument
from stl_core.cli.output import OutputFolder, add_json_option, add_metric_option, write_json
from stl_core.data import depth_checks
from stl_core.data.checks.label_faults import warn_of_faults
from stl_core.data.frame_source import DataError, read_split, require_labels
from stl_core.data.given_depth import COMPLETE, GIVEN_CHOICES, PRIVILEGE
from stl_core.data.sources import kitti, kitti_calib
from stl_core.data.sources.nuscenes_tables import find_version
from stl_core.evaluation import average_precision, kitti_matching, metrics, report
from stl_core.evaluation.ap_result import CLASSES, POINTS, class_min_iou
from stl_core.evaluation.metric import MetricResults
from stl_core.evaluation.nuscenes.devkit import Devkit
from stl_core.evaluation.nuscenes.results import read_results
from stl_core.inference import result_files
from stl_core.inference.given_depths import given_depths
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.predictor import load_predictor
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.models import published_protocol
from stl_core.types import Array, Labels

log = logging.getLogger(__name__)

#: Values of --missing.
MISSING_CHOICES = ('error', 'empty')


def add_evaluate_command(commands: Any) -> None:
    """Add `stl evaluate`."""
    parser = commands.add_parser('evaluate', help='compute AP of a model on labelled frames')
    add_model_argument(parser)
    add_frame_options(parser, 'image_2, calib, label_2; for a teacher: velodyne or depth_2')
    parser.add_argument(
        '--results',
        type=OutputFolder,
        help='folder for KITTI result files, one per frame (default: none are written)',
    )
    add_clear_option(parser, '--results')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    parser.add_argument(
        '--given',
        choices=GIVEN_CHOICES,
        help='given depth of a privileged teacher: that of the frame, none, or that of the next'
        f' frame (default: {COMPLETE}; an error for other models)',
    )
    add_metric_option(parser)
    _add_report_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(args: argparse.Namespace) -> None:
    frames = list_images(args, labelled=True)
    truth = require_labels(frames)
    if args.results:
        result_files.require_no_other_results(Path(args.results), frames, args.clear)
    predictor = load_predictor(args.student, args.device)
    privilege = _privilege(args, predictor.spec)
    if predictor.spec.input.needs_depth_maps:
        depth_checks.require_lidar_like_depth(frames, args.root)
    spec, published = predictor.spec, published_protocol(predictor.spec.detector)
    depths = given_depths(spec, frames, args.given or COMPLETE)
    found = [
        result_files.predict_frame(predictor, each, published, depth).detections
        for each, depth in zip(frames, depths, strict=True)
    ]
    detections = result_files.as_protocol_detections(found, spec.classes)
    results = metrics.evaluate_protocols(truth, detections, spec.classes, args.metric)
    _require_meaning(results)
    print(results.format_table())
    if published:
        print(f'published protocol: {published.description}, no suppression of boxes')
    _print_notes(results)
    points = _best_thresholds(truth, detections.ours)
    if args.results:
        result_files.write_result_files(
            Path(args.results), frames, detections.ours, clear=args.clear
        )
    if args.report:
        sigmas_m = [each.ours.depth_sigma_m for each in found]
        Ps = [each.P for each in frames]
        analysis = report.analyse_detections(truth, detections.ours, Ps, sigmas_m)
        _write_report(args.report, analysis, results)
    extra = {**results.extra_json(), **results.side_json(), **privilege}
    write_json(args.json, {'ap': results.ap.to_json(), 'best_threshold': points, **extra})


def _privilege(args: argparse.Namespace, spec: ModelSpec) -> dict[str, Any]:
    """Print which depth the model is given; return the entry `given_depth` of the JSON file."""
    kind, given = spec.input.given_depth, args.given or COMPLETE
    if not kind:
        if args.given:
            raise ModelFileError(
                f'--given: {args.student} is no privileged teacher; it is given no depth'
            )
        return {}
    print(f'given depth {kind}, {given}: this model {PRIVILEGE[kind]}')
    return {'given_depth': {'kind': kind, 'given': given, 'privilege': PRIVILEGE[kind]}}


def _best_thresholds(
    truth: Sequence[Labels], detections: Sequence[Labels]
) -> dict[str, dict[str, float]]:
    """Print and return the threshold with the best F1 of each class, by our protocol."""
    points = {
        name: asdict(
            average_precision.best_threshold(
                *(truth, detections, name, kitti_matching.MODERATE),
                class_min_iou(name, '3d', 'strict'),
            )
        )
        for name in CLASSES
    }
    for name, point in points.items():
        if point['recall']:
            print(
                f'{name}: at score {point["min_score"]:.3f} precision {point["precision"]:.3f}'
                f' recall {point["recall"]:.3f} (moderate, 3D, strict IoU, protocol ours)'
            )
        else:
            print(f'{name}: no true positive (moderate, 3D, strict IoU), so no best score')
    return points


def _require_meaning(results: MetricResults) -> None:
    """Raise DataError if no AP means anything, unless another metric was computed, too."""
    assert results.counts is not None
    if (fault := results.counts.fault()) and not results.extra:
        raise DataError(fault)


def _print_notes(results: MetricResults) -> None:
    for note in results.notes():
        print(f'note: {note}')


def add_kitti_ap_command(commands: Any) -> None:
    """Add `stl kitti-ap`."""
    parser = commands.add_parser('kitti-ap', help='compute AP of KITTI result files')
    parser.add_argument('labels', help='folder of label files')
    parser.add_argument('results', help='folder of result files, one per label file')
    parser.add_argument(
        '--split', help='file of the frame ids to evaluate (default: all label files)'
    )
    parser.add_argument(
        '--missing',
        choices=MISSING_CHOICES,
        default='error',
        help='a frame without a result file is an error, or counts as a frame without detections'
        ' (default: %(default)s)',
    )
    _add_report_option(parser)
    parser.add_argument(
        '--calib',
        help='calib files for the report: a folder, or one file for all frames (default: none)',
    )
    add_json_option(parser)
    parser.set_defaults(run=_run_kitti_ap)


def _run_kitti_ap(args: argparse.Namespace) -> None:
    ids = read_split(args.split) if args.split else ()
    pairs = result_files.pair_with_labels(Path(args.labels), Path(args.results), ids)
    absent = [pair.label.stem for pair in pairs if pair.result is None]
    if absent and (args.missing == 'error' or len(absent) == len(pairs)):
        raise DataError(
            f'{args.results}: {len(absent)} of {len(pairs)} label files have no result file'
            f' ({result_files.first_names(absent)}); write an empty file where nothing was'
            ' detected, select frames with --split, or count them as such with --missing empty'
        )
    detections = [
        kitti.read_results(pair.result) if pair.result else Labels.empty() for pair in pairs
    ]
    lines = [kitti.label_lines(pair.label) for pair in pairs]
    truth = [kitti.parse_labels(each) for each in lines]
    if warning := warn_of_faults(truth, [[where for where, _ in each] for each in lines]):
        log.warning('warning: %s', warning)
    results = metrics.evaluate_metrics(truth, detections, None)
    assert results.counts is not None
    counts = replace(results.counts, without_result_file=len(absent))
    results = replace(results, counts=counts)
    _require_meaning(results)
    print(results.format_table(POINTS))
    _print_notes(results)
    used = sum(pair.result is not None for pair in pairs)
    if rest := len(list(Path(args.results).glob('*.txt'))) - used:
        print(f'note: {rest} result files are not in {args.split} and are left out')
    if args.report:
        labels = [pair.label for pair in pairs]
        Ps = _read_projections(Path(args.calib), labels) if args.calib else None
        _write_report(args.report, report.analyse_detections(truth, detections, Ps))
    write_json(args.json, results.to_json())


def add_nuscenes_eval_command(commands: Any) -> None:
    """Add `stl nuscenes-eval`."""
    parser = commands.add_parser(
        'nuscenes-eval', help='compute mAP and NDS of a nuScenes results file by the devkit'
    )
    parser.add_argument('results', help='results file of any detector, JSON')
    parser.add_argument('root', help='folder of nuScenes, or of one of its versions')
    parser.add_argument(
        '--split',
        required=True,
        help="split of the version, such as val, mini_val, or one of its splits.json's",
    )
    add_json_option(parser)
    parser.set_defaults(run=_run_nuscenes_eval)


def _run_nuscenes_eval(args: argparse.Namespace) -> None:
    results = read_results(args.results)
    root = Path(args.root)
    folder = root if (root / 'sample_data.json').exists() else find_version(root, '')
    result = Devkit(folder.parent, folder.name).evaluate(results, args.split)
    print(result.format_table())
    write_json(args.json, result.to_json())


def _read_projections(calib: Path, labels: list[Path]) -> list[Array]:
    """Return P2 of each label file, from a folder of calib files or from one file for all."""
    if calib.is_file():
        return [kitti_calib.read_calib(calib).P2] * len(labels)
    return [kitti_calib.read_calib(calib / path.name).P2 for path in labels]


def _add_report_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--report',
        type=OutputFolder,
        metavar='FOLDER',
        help='write oracle AP, depth errors, PR curves and reliability as tables and charts'
        ' (default: no report)',
    )


def _write_report(
    folder: str, detection_report: report.DetectionReport, results: MetricResults | None = None
) -> None:
    report.write_report(detection_report, folder, results)
    for note in detection_report.notes:
        print(f'report: {note}')
    print(f'report: {folder}')
