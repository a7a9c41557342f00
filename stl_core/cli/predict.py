"""
The commands `stl predict` and `nuscenes-predict`: result files of images, and of samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stl_core import files
from stl_core.cli.frame_options import add_clear_option, add_frame_options, list_images
from stl_core.cli.models import add_model_argument
from stl_core.cli.output import OutputFile, OutputFolder, add_json_option, write_json
from stl_core.data import depth_checks
from stl_core.data.frame_source import SourceImage
from stl_core.data.given_depth import PRIVILEGE
from stl_core.data.sources import kitti, nuscenes
from stl_core.evaluation.counts import EvaluationCounts, count_objects
from stl_core.evaluation.nuscenes.results import build_results
from stl_core.inference import result_files
from stl_core.inference.judged_samples import judge_samples, merge_samples
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.predictor import Predictor, load_predictor
from stl_core.inference.rig_predictor import load_rig_predictor
from stl_core.inference.rig_samples import predict_samples
from stl_core.inference.runtimes import find_runtime
from stl_core.types import Labels, Objects3D
from stl_core.visualization import draw, style


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
        help='output folder for results/ and pictures/ (default: %(default)s)',
    )
    add_clear_option(parser, '--out')
    parser.add_argument(
        '--score',
        type=float,
        help='minimum score of boxes in pictures (default: those in the header of the model, by'
        ' class)',
    )
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    add_json_option(parser)
    parser.set_defaults(run=_run_predict)


def _run_predict(args: argparse.Namespace) -> None:
    results, pictures = (Path(args.out) / name for name in ('results', 'pictures'))
    for folder in (pictures, results):
        files.require_writable_folder(folder)
    spec = find_runtime(args.student).load_spec(Path(args.student))
    kind = spec.input.given_depth
    frames = list_images(args, labelled=bool(kind))
    names = result_files.frame_names(frames)
    result_files.require_no_other_results(results, frames, args.clear)
    outdated = result_files.require_no_other_pictures(pictures, frames, args.clear)
    predictor = load_predictor(args.student, args.device)
    if kind:
        print(f'given depth {kind}: this model {PRIVILEGE[kind]}')
    if spec.input.needs_depth_maps:
        depth_checks.require_lidar_like_depth(frames, args.root)
    classes = predictor.spec.classes
    thresholds = _thresholds(predictor.spec, args.score)
    pictures.mkdir(parents=True, exist_ok=True)
    for path in outdated:
        path.unlink()
    detections, drawn, not_finite = [], [], 0
    for name, frame in zip(names, frames, strict=True):
        found, confident = _draw_frame(predictor, frame, thresholds, pictures / f'{name}.png')
        detections.append(kitti.to_labels(found.ours, classes))
        drawn.append(kitti.to_labels(confident, classes))
        not_finite += found.num_not_finite
    result_files.write_result_files(results, frames, detections, clear=args.clear)
    counts = _describe(detections, drawn, predictor.spec, thresholds, not_finite)
    print(f'{len(frames)} frames: {results}, {pictures}')
    write_json(args.json, {'counts': counts})


def add_nuscenes_predict_command(commands: Any) -> None:
    """Add `stl nuscenes-predict`."""
    parser = commands.add_parser(
        'nuscenes-predict',
        help='detect objects around the vehicle in samples of nuScenes; write a results file, as'
        ' for a submission',
    )
    add_model_argument(parser)
    parser.add_argument('root', help='folder of nuScenes, or of one of its versions')
    parser.add_argument('out', type=OutputFile, help='results file to write, JSON')
    parser.add_argument('--split', required=True, help='split of the version, such as val or test')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    parser.set_defaults(run=_run_nuscenes_predict)


def _run_nuscenes_predict(args: argparse.Namespace) -> None:
    spec = find_runtime(args.student).load_spec(Path(args.student))
    labelled = bool(spec.input.given_depth)
    config = replace(nuscenes.database_below(Path(args.root), labelled), split=args.split)
    source = nuscenes.NuscenesSource(config)
    samples = [source.read(each) for each in source.ids]
    if spec.multi_view:
        objects = predict_samples(load_rig_predictor(args.student, args.device), samples).objects
    else:
        frames = [image for sample in samples for image in sample.images]
        predictor = load_predictor(args.student, args.device)
        found = result_files.predict_detections(predictor, frames)
        objects = merge_samples(samples, [each.ours for each in found])
    judged = judge_samples(samples, objects, spec)
    assert judged is not None  # a source with a split has a benchmark
    results, counts = build_results(judged.detections, judged.classes, judged.attributes)
    files.write_atomically(Path(args.out), json.dumps(results).encode())
    print(f'{len(samples)} samples, {counts.boxes} boxes: {args.out}')
    for note in counts.notes():
        print(f'note: {note}')


def _draw_frame(
    predictor: Predictor, frame: SourceImage, thresholds: Mapping[str, float], path: Path
) -> tuple[Any, Objects3D]:
    """Detect the objects of a frame and draw the confident ones; return both."""
    classes = predictor.spec.classes
    image, P, found = result_files.predict_frame(predictor, frame)
    limits = np.array([thresholds[name] for name in classes])
    confident = found.ours[found.ours.score >= limits[found.ours.class_id]]
    colours = [style.class_colour(classes[i]) for i in confident.class_id]
    texts = draw.box_labels(confident, classes)
    picture = draw.draw_frame(image, P, draw.box_edges(confident), colours, texts)
    draw.write_picture(path, picture)
    return found, confident


def _thresholds(spec: ModelSpec, score: float | None) -> dict[str, float]:
    """Return the minimum score of drawn boxes by class; say which classes have no threshold."""
    if score is not None:
        return dict.fromkeys(spec.classes, score)
    missing = [name for name in spec.classes if name not in spec.score_thresholds]
    if missing:
        print(
            f'the header of the model has no score threshold for {", ".join(missing)}: boxes are'
            f' drawn from {result_files.DEFAULT_SCORE:g} (--score sets another)'
        )
    return dict.fromkeys(spec.classes, result_files.DEFAULT_SCORE) | spec.score_thresholds


def _describe(
    detections: list[Labels],
    drawn: list[Labels],
    spec: ModelSpec,
    thresholds: Mapping[str, float],
    not_finite: int,
) -> dict[str, Any]:
    """Print how many boxes were found and drawn, by class; return the entry `counts`."""
    no_labels = [Labels.empty()] * len(detections)
    found, shown = (
        _by_class(count_objects(no_labels, each), spec) for each in (detections, drawn)
    )
    pictures = sum(len(each) > 0 for each in drawn)
    for name in spec.classes:
        print(
            f'{name}: {found[name]} found, {shown[name]} drawn (score >= {thresholds[name]:.3f})'
        )
    boxes, boxes_drawn = sum(found.values()), sum(shown.values())
    print(
        f'{boxes} boxes found in {len(detections)} frames, {boxes_drawn} drawn in {pictures}'
        f' pictures'
    )
    if not boxes:
        print('note: no boxes were found at all: all result files are empty')
    elif not boxes_drawn:
        best = max(float(each.score.max()) for each in detections if len(each))
        print(f'note: no picture has a box: the highest score is {best:.3f}; --score sets another')
    if not_finite:
        print(
            f'note: {not_finite} detections were dropped: the outputs of the network are not'
            ' finite'
        )
    return {
        'frames': len(detections),
        'detections': found,
        'drawn': shown,
        'pictures_with_boxes': pictures,
        'score_thresholds': {name: thresholds[name] for name in spec.classes},
        'detections_not_finite': not_finite,
    }


def _by_class(counts: EvaluationCounts, spec: ModelSpec) -> dict[str, int]:
    """Return the number of detections of each class of the model."""
    return {
        name: counts.by_class[name].detections if name in counts.by_class else 0
        for name in spec.classes
    }
