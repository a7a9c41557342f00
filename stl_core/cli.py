"""
`stl`: synthesize, depth-maps, train, study, evaluate, kitti-ap, predict and more.

Bad input ends with one line that names it and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from stl_core import (
    checkpoint,
    contest,
    dossier,
    draw,
    evaluate,
    judge,
    parallel,
    predict,
    stages,
    strokes,
    train,
    transfer_commands,
)
from stl_core.data import depth_command, kitti
from stl_core.data.synthetic import command
from stl_core.published import LAYOUTS, WeightsError, import_weights
from stl_core.strict import ConfigError
from stl_core.types import Array

#: What a user can mend: told in one line, without a traceback.
BAD_INPUT = (
    kitti.DataError,
    ConfigError,
    predict.StudentError,
    checkpoint.CheckpointError,
    train.TrainError,
    WeightsError,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 with one line for bad input."""
    parser = argparse.ArgumentParser('stl', description=__doc__.split('\n')[1])
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for add in (
        command.add_command,
        depth_command.add_command,
        _add_train,
        transfer_commands.add_commands,
        _add_evaluate,
        _add_kitti_ap,
        _add_predict,
        _add_inspect,
        _add_export,
        _add_import_weights,
    ):
        add(commands)
    args = _parse(parser, argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        _make_room(getattr(args, 'json', None))
        args.run(args)
    except BAD_INPUT as err:
        # from a loading process the message comes at the end of that process's traceback
        told = str(err).strip().splitlines()[-1].rpartition('Error: ')[-1]
        print(f'stl: {told}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('stl: stopped; the same command goes on where it was', file=sys.stderr)
        sys.exit(130)


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, with settings after options too: argparse alone takes them in one place."""
    args, rest = parser.parse_known_args(argv)
    if rest and ('overrides' not in args or any(each.startswith('-') for each in rest)):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest:
        args.overrides += rest
    return args


def _add_train(commands: Any) -> None:
    parser = commands.add_parser('train', help='train a detector, or go on with a stopped run')
    parser.add_argument('config', help='YAML file')
    parser.add_argument(
        '--stage', action='append', default=[], help='only this one of its stages; may be repeated'
    )
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='on top of the file')
    _add_json(parser)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    chosen = stages.choose(stages.load(args.config, tuple(args.overrides)), tuple(args.stage))
    found = {}
    with parallel.processes(next(iter(chosen.values())).device):
        for name, each in chosen.items():
            metrics = stages.run(each)
            if not metrics:  # another process of this run judges, and tells
                continue
            if name:
                print(f'stage {name}')
            print(evaluate.table(metrics, ('AP40',)))
            print(f'student: {Path(each.out) / "student.safetensors"}')
            found[name] = metrics
    if len(found) > 1:
        print(f'curves: {stages.draw({name: chosen[name] for name in found})}')
    if found:
        _write_json(args.json, found.get('', found))


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser('evaluate', help="a student's AP on labelled frames")
    parser.add_argument('student', help='.safetensors file')
    _add_frames(parser)
    parser.add_argument(
        '--results', help='folder for KITTI result files, one a frame; older ones are replaced'
    )
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    _add_report(parser)
    _add_json(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    frames = _frames(args, labelled=True)
    predictor = predict.load(args.student, args.device)
    # without the images: they are large
    seen = [judge.see(predictor, each)[1:] for each in frames]
    Ps, objects = [P for P, _ in seen], [each for _, each in seen]
    found = [kitti.to_labels(each, predictor.spec.classes) for each in objects]
    truth = [kitti.read_labels(each.label_2) for each in frames if each.label_2]
    metrics = evaluate.evaluate(truth, found)
    print(evaluate.table(metrics, ('AP40',)))
    points = {
        name: asdict(evaluate.best_min_score(truth, found, name, contest.MODERATE, min_iou))
        for name, min_iou in zip(evaluate.CLASSES, evaluate.MIN_IOU['strict']['3d'], strict=True)
    }
    for name, point in points.items():
        print(
            f'{name}: at score {point["min_score"]:.3f} precision {point["precision"]:.3f}'
            f' recall {point["recall"]:.3f} (moderate, 3D, strict IoU)'
        )
    if args.results:
        judge.write_results(Path(args.results), frames, found)
    if args.report:
        sigmas_m = [each.depth_sigma_m for each in objects]
        _write_report(args.report, dossier.examine(truth, found, Ps, sigmas_m))
    _write_json(args.json, {'ap': metrics, 'best_threshold': points})


def _add_kitti_ap(commands: Any) -> None:
    parser = commands.add_parser('kitti-ap', help='AP of KITTI result files')
    parser.add_argument('labels', help='folder of label files')
    parser.add_argument('results', help='folder of result files; its names choose the frames')
    _add_report(parser)
    parser.add_argument('--calib', help="the report's calib files: a folder, or one file for all")
    _add_json(parser)
    parser.set_defaults(run=_kitti_ap)


def _kitti_ap(args: argparse.Namespace) -> None:
    results = sorted(Path(args.results).glob('*.txt'))
    if not results:
        raise kitti.DataError(f'{args.results}: no result file (ID.txt) in this folder')
    found = [kitti.read_results(path) for path in results]
    truth = [kitti.read_labels(Path(args.labels) / path.name) for path in results]
    metrics = evaluate.evaluate(truth, found)
    print(evaluate.table(metrics))
    if args.report:
        Ps = _projections(Path(args.calib), results) if args.calib else None
        _write_report(args.report, dossier.examine(truth, found, Ps))
    _write_json(args.json, metrics)


def _projections(calib: Path, results: list[Path]) -> list[Array]:
    """P2 of each result file, from a folder of calib files or from one file for all."""
    if calib.is_file():
        return [kitti.read_calib(calib).P2] * len(results)
    return [kitti.read_calib(calib / path.name).P2 for path in results]


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser('predict', help='result files and pictures of a folder of images')
    parser.add_argument('student', help='.safetensors file')
    _add_frames(parser)
    parser.add_argument('--out', default='runs/predict', help='folder for results/ and pictures/')
    parser.add_argument('--score', type=float, default=0.3, help='least score drawn')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    parser.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> None:
    frames, out = _frames(args, labelled=False), Path(args.out)
    predictor = predict.load(args.student, args.device)
    classes = predictor.spec.classes
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    found = []
    for files in frames:
        image, P, objects = judge.see(predictor, files)
        found.append(kitti.to_labels(objects, classes))
        sure = objects[objects.score >= args.score]
        colours = [strokes.class_colour(classes[i]) for i in sure.class_id]
        texts = draw.box_labels(sure, classes)
        picture = draw.scene(image, P, draw.box_edges(sure), colours, texts)
        path = out / 'pictures' / f'{files.id}.png'
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    judge.write_results(out / 'results', frames, found)
    print(f'{len(frames)} frames: {out}/results, {out}/pictures')


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser('inspect', help='what a student file says of itself')
    parser.add_argument('student', help='.safetensors file')
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> None:
    print(json.dumps(asdict(predict.read_spec(args.student)), indent=1, sort_keys=True))


def _add_export(commands: Any) -> None:
    parser = commands.add_parser('export', help='a student file with weights in half precision')
    parser.add_argument('student', help='.safetensors file')
    parser.add_argument('out', help='.safetensors file to write')
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    predict.halve(args.student, args.out)
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.2f} MB')


def _add_import_weights(commands: Any) -> None:
    parser = commands.add_parser('import-weights', help='a student file of a published checkpoint')
    parser.add_argument('program', choices=list(LAYOUTS), help='which program saved it')
    parser.add_argument('checkpoint', help='.pth file that the program saved')
    parser.add_argument('out', help='.safetensors file to write')
    parser.set_defaults(run=_import_weights)


def _import_weights(args: argparse.Namespace) -> None:
    spec = import_weights(args.program, args.checkpoint, args.out)
    print(f'{args.out}: {spec.detector} for {", ".join(spec.classes)}, from {args.checkpoint}')


def _add_frames(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'root',
        help='folder with image_2, calib; label_2 to evaluate; velodyne or depth_2 for a teacher',
    )
    parser.add_argument('--split', help='file of frame ids; all frames without it')


def _frames(args: argparse.Namespace, labelled: bool) -> list[kitti.FrameFiles]:
    root = Path(args.root)
    label_2 = str(root / 'label_2') if labelled else ''
    # what a teacher sees; students do without
    depths = {name: str(root / name) for name in ('velodyne', 'depth_2') if (root / name).is_dir()}
    source = kitti.Source(str(root / 'image_2'), str(root / 'calib'), label_2, **depths)
    return kitti.find_frames(source, kitti.read_split(args.split) if args.split else ())


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--report',
        metavar='FOLDER',
        help='write oracles, depth errors, curves and reliability as tables and charts',
    )


def _write_report(folder: str, found: dossier.Dossier) -> None:
    dossier.write(found, folder)
    for note in found.notes:
        print(f'report: {note}')
    print(f'report: {folder}')


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', help='write the figures here as well')


def _make_room(path: str | None) -> None:
    """Make the folder of a file that will be written, before the work; DataError if it cannot."""
    if path:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise kitti.DataError(f'--json {path}: no such folder can be made ({err})') from err


def _write_json(path: str | None, figures: Any) -> None:
    if path:
        checkpoint.write_atomically(Path(path), json.dumps(figures, indent=1).encode())
