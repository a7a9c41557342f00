"""
The commands `stl evaluate`, `stl predict` and `stl kitti-ap`: KITTI AP and result files.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.cli.frame_options import add_frame_options, list_images
from stl_core.cli.models import add_model_argument
from stl_core.cli.output import OutputFolder, add_json_option, add_metric_option, write_json
from stl_core.data import depth_checks
from stl_core.data.frame_source import DataError, require_labels
from stl_core.data.sources import kitti, kitti_calib
from stl_core.evaluation import average_precision, kitti_matching, metrics, report
from stl_core.evaluation.ap_result import CLASSES, class_min_iou
from stl_core.evaluation.metric import MetricResults
from stl_core.inference import result_files
from stl_core.inference.predictor import load_predictor
from stl_core.types import Array
from stl_core.visualization import draw, style


def add_evaluate_command(commands: Any) -> None:
    """Add `stl evaluate`."""
    parser = commands.add_parser('evaluate', help='compute AP of a model on labelled frames')
    add_model_argument(parser)
    add_frame_options(parser, 'image_2, calib, label_2; for a teacher: velodyne or depth_2')
    parser.add_argument(
        '--results',
        type=OutputFolder,
        help='folder for KITTI result files, one per frame; replaces older ones',
    )
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    add_metric_option(parser)
    _add_report_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(args: argparse.Namespace) -> None:
    frames = list_images(args, labelled=True)
    truth = require_labels(frames)
    predictor = load_predictor(args.student, args.device)
    if predictor.spec.input.depth is not None:
        depth_checks.require_lidar_like_depth(frames, args.root)
    # [1:] drops the images, which are large
    predictions = [result_files.predict_frame(predictor, each)[1:] for each in frames]
    Ps, objects = [P for P, _ in predictions], [each for _, each in predictions]
    detections = [kitti.to_labels(each, predictor.spec.classes) for each in objects]
    results = metrics.evaluate_metrics(truth, detections, predictor.spec.classes, args.metric)
    print(results.format_table())
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
        print(
            f'{name}: at score {point["min_score"]:.3f} precision {point["precision"]:.3f}'
            f' recall {point["recall"]:.3f} (moderate, 3D, strict IoU)'
        )
    if args.results:
        result_files.write_result_files(Path(args.results), frames, detections)
    if args.report:
        sigmas_m = [each.depth_sigma_m for each in objects]
        analysis = report.analyse_detections(truth, detections, Ps, sigmas_m)
        _write_report(args.report, analysis, results)
    ap = results.ap.to_json()
    write_json(args.json, {'ap': ap, 'best_threshold': points, **results.extra_json()})


def add_kitti_ap_command(commands: Any) -> None:
    """Add `stl kitti-ap`."""
    parser = commands.add_parser('kitti-ap', help='compute AP of KITTI result files')
    parser.add_argument('labels', help='folder of label files')
    parser.add_argument('results', help='folder of result files; their names select the frames')
    _add_report_option(parser)
    parser.add_argument(
        '--calib', help='calib files for the report: a folder, or one file for all frames'
    )
    add_json_option(parser)
    parser.set_defaults(run=_run_kitti_ap)


def _run_kitti_ap(args: argparse.Namespace) -> None:
    results = sorted(Path(args.results).glob('*.txt'))
    if not results:
        raise DataError(f'{args.results}: no result file (ID.txt) in this folder')
    detections = [kitti.read_results(path) for path in results]
    truth = [kitti.read_labels(Path(args.labels) / path.name) for path in results]
    ap = average_precision.evaluate_detections(truth, detections)
    print(ap.format_table())
    if args.report:
        Ps = _read_projections(Path(args.calib), results) if args.calib else None
        _write_report(args.report, report.analyse_detections(truth, detections, Ps))
    write_json(args.json, ap.to_json())


def _read_projections(calib: Path, results: list[Path]) -> list[Array]:
    """Return P2 of each result file, from a folder of calib files or from one file for all."""
    if calib.is_file():
        return [kitti_calib.read_calib(calib).P2] * len(results)
    return [kitti_calib.read_calib(calib / path.name).P2 for path in results]


def add_predict_command(commands: Any) -> None:
    """Add `stl predict`."""
    parser = commands.add_parser(
        'predict', help='detect objects in a folder of images; write result files and pictures'
    )
    add_model_argument(parser)
    add_frame_options(parser, 'image_2, calib; for a teacher: velodyne or depth_2')
    parser.add_argument(
        '--out',
        type=OutputFolder,
        default='runs/predict',
        help='output folder for results/ and pictures/',
    )
    parser.add_argument(
        '--score', type=float, default=0.3, help='minimum score of boxes in pictures'
    )
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    parser.set_defaults(run=_run_predict)


def _run_predict(args: argparse.Namespace) -> None:
    out = Path(args.out)
    for folder in (out / 'pictures', out / 'results'):
        files.require_writable_folder(folder)
    frames = list_images(args, labelled=False)
    predictor = load_predictor(args.student, args.device)
    if predictor.spec.input.depth is not None:
        depth_checks.require_lidar_like_depth(frames, args.root)
    classes = predictor.spec.classes
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    detections = []
    for frame in frames:
        image, P, objects = result_files.predict_frame(predictor, frame)
        detections.append(kitti.to_labels(objects, classes))
        confident = objects[objects.score >= args.score]
        colours = [style.class_colour(classes[i]) for i in confident.class_id]
        texts = draw.box_labels(confident, classes)
        picture = draw.draw_frame(image, P, draw.box_edges(confident), colours, texts)
        draw.write_picture(out / 'pictures' / f'{frame.id}.png', picture)
    result_files.write_result_files(out / 'results', frames, detections)
    print(f'{len(frames)} frames: {out}/results, {out}/pictures')


def _add_report_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--report',
        type=OutputFolder,
        metavar='FOLDER',
        help='write oracle AP, depth errors, PR curves and reliability as tables and charts',
    )


def _write_report(
    folder: str, detection_report: report.DetectionReport, results: MetricResults | None = None
) -> None:
    report.write_report(detection_report, folder, results)
    for note in detection_report.notes:
        print(f'report: {note}')
    print(f'report: {folder}')
