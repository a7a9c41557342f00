"""
The command evaluate_bag: run a model on a recorded drive and measure its errors, without ROS.

The code of the node processes every image of the bag, so that no image is lost and the same
command makes the same OUT/answers and OUT/figures.json, byte for byte. OUT/answers is a bag with
the detections: /detector/markers and /detector/detections (/detector/CAMERA/... with several
cameras), camera_info and tf. Labels come from CAMERA/ground_truth/labels of the bag, if present,
or from a folder with one KITTI file per image. If /tf_static has the poses of the cameras on the
vehicle, an object in two images is published once. BAG may be a folder of bags: each bag gets a
folder in OUT, and OUT/report.html covers all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mono3d_ros.bag_evaluation import label_score, lidar_check, rerun_export, results, runner
from mono3d_ros.bag_evaluation.replay import LABELS_AUTO, LABELS_TOPIC, EvaluationOptions
from mono3d_ros.bag_evaluation.runner import BagResult, ModelError, ModelRef
from mono3d_ros.bags.bag_io import STORAGES, BagError, require_absent
from mono3d_ros.bags.drive_query import (
    DriveQuery,
    add_camera_options,
    add_rectified_option,
    prefer_raw,
    prefer_rectified,
)
from mono3d_ros.bags.storage.folder import find_bags
from mono3d_ros.messages.rectification import RAW
from mono3d_ros.params import Params
from mono3d_ros.perception import model_loading
from stl_core.cli.command import CommandParser, run_command
from stl_core.cli.output import add_metric_option
from stl_core.evaluation.metric import table_cells
from stl_core.files import OutputError, require_writable_file

#: Errors that a user can fix: reported on one line, without a traceback.
INPUT_ERRORS = (*runner.INPUT_ERRORS, rerun_export.RerunError, OutputError)


def _no_package_share(package: str) -> str:
    raise LookupError(package)  # only ROS can find the share folder of a package


def _print_result(result: BagResult, out: Path) -> None:
    """Print the scores, the omitted images and the output folder."""
    console = Console()
    drive = result.replay_result.drive_results
    if result.box_score:
        _print_table(
            console,
            'detections against labels, protocol ours',
            label_score.TABLE_HEADINGS,
            result.box_score.table_rows(),
        )
        for note in result.box_score.notes():
            console.print(note, markup=False)
        for name, each in result.box_score.results.extra.items():
            _print_table(console, f'metric {name}', *table_cells(each.rows()))
    rows = []
    for name, ranges in results.summarize_lidar_errors(drive).items():
        if (total := ranges[-1])['checked']:
            numbers = [f'{total[key]:g}' for key in list(total)[2:]]
            rows.append((name, *numbers))
    if rows:
        headings = ('class', *lidar_check.STATISTICS_HEADINGS)
        _print_table(console, 'boxes against LiDAR scans', headings, rows)
    for line in (each for report in result.replay_result.reports for each in report.lines()):
        console.print(line, markup=False, soft_wrap=True)
    for reason, count in drive.skipped.items():
        console.print(f'{count} images omitted: {reason}', markup=False)
    for note, count in drive.notes.items():
        console.print(f'{count} {note}', markup=False)
    boxes = sum(len(each.published) for each in drive.image_results)
    console.print(f'{len(drive.image_results)} images, {boxes} boxes: {out}', markup=False)


def _print_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    table = Table(title=title, title_justify='left')
    for number, heading in enumerate(headings):
        table.add_column(heading, justify='right' if number else 'left')
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser('evaluate_bag', description=__doc__.split('\n')[1])
    parser.add_argument(
        'bag',
        type=Path,
        help='rosbag2 folder, .mcap or .db3 file, also .zstd, or a folder of bags',
    )
    parser.add_argument('out', type=Path, help='the new folder')
    parser.add_argument('--model', default=Params().model, help='model file')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    add_camera_options(parser)
    add_rectified_option(parser)
    parser.add_argument(
        '--labels',
        default=LABELS_AUTO,
        help='auto, topic (required) or a folder of label files',
    )
    _add_sensor_arguments(parser)
    _add_detection_arguments(parser)
    parser.add_argument(
        '--rerun', type=Path, metavar='FILE.rrd', help="recording for rerun's viewer"
    )
    parser.add_argument('--pictures', type=int, default=8, help='number of images to draw')
    parser.add_argument(
        '--copy', action='store_true', help='copy images, scans and labels to OUT/answers'
    )
    parser.add_argument(
        '--storage', choices=tuple(STORAGES), default='mcap', help='storage format of OUT/answers'
    )
    add_metric_option(parser)
    parser.add_argument('--jobs', type=int, default=1, help='bags to evaluate in parallel')
    return parser


def _add_sensor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select images and scans."""
    parser.add_argument('--cloud', default='', help='topic of the LiDAR scans; default: the first')
    parser.add_argument(
        '--max-offset',
        type=float,
        default=0.05,
        help='maximum time between image and scan, seconds',
    )
    parser.add_argument('--every', type=int, default=1, help='use every n-th image')


def _add_detection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that are parameters of the node."""
    parser.add_argument(
        '--score',
        type=float,
        default=Params().score_threshold,
        help='minimum score of published boxes',
    )
    parser.add_argument(
        '--track', action='store_true', help='track objects: stable ids, velocities'
    )
    parser.add_argument(
        '--fixed-frame',
        default=Params().fixed_frame,
        help='frame of /tf in which objects are tracked',
    )
    parser.add_argument(
        '--vehicle-frame',
        default=Params().vehicle_frame,
        help='frame of /tf in which boxes of several cameras are merged',
    )
    parser.add_argument(
        '--max-apart',
        type=float,
        default=Params().max_apart_s,
        help='maximum time between images of one batch, seconds',
    )


def _read_options(args: argparse.Namespace) -> EvaluationOptions:
    order = prefer_raw if args.rectified == RAW else prefer_rectified
    if args.pictures < 0:
        raise BagError(f'--pictures {args.pictures}: expected 0 or more')
    if args.jobs < 1:
        raise BagError(f'--jobs {args.jobs}: expected 1 or more')
    params = Params(tracking=args.track, rectified=args.rectified, bit_depth=args.bit_depth)
    for option, name in (('score', 'score_threshold'), ('max_apart', 'max_apart_s')):
        value = getattr(args, option)
        try:
            params = replace(params, **{name: value})
        except ValueError as err:
            raise BagError(f'--{option.replace("_", "-")} {value:g}: {err}') from err
    return EvaluationOptions(
        DriveQuery(
            args.camera,
            order,
            args.cloud,
            args.every,
            args.max_offset,
            args.vehicle_frame,
            args.fixed_frame,
            args.image,
            args.camera_info,
        ),
        params,
        label_source=args.labels,
        num_pictures=args.pictures,
        storage=args.storage,
        copy_inputs=args.copy,
        metric_names=tuple(args.metric),
    )


def _run(args: argparse.Namespace) -> list[str]:
    """Evaluate the bag or bags; return one error message for each bag that cannot be used."""
    require_absent(args.out)
    if args.rerun:
        require_writable_file(args.rerun)
    options, bags = _read_options(args), find_bags(args.bag)
    errors: list[str] = []
    try:
        model = ModelRef(model_loading.find_model(args.model, _no_package_share), args.device)
    except ValueError as err:
        raise ModelError(str(err)) from err
    if bags and options.label_source not in (LABELS_AUTO, LABELS_TOPIC):
        raise BagError(
            f'{options.label_source}: label files belong to one bag, but {args.bag} has several'
        )
    if bags and args.rerun:
        raise BagError(f'{args.rerun}: --rerun records one bag, but {args.bag} has several')
    if bags:
        result, errors = runner.evaluate_bags(bags, args.out, model, options, args.jobs)
    elif args.rerun:
        with rerun_export.RerunRecording(args.rerun) as recording:
            result = runner.evaluate_one_bag(args.bag, args.out, model, options, recording)
    else:
        result = runner.evaluate_one_bag(args.bag, args.out, model, options)
    _print_result(result, args.out)
    return errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns exit code 2 after one line on stderr for bad input."""
    args = _make_parser().parse_args(argv)
    stopped = 'stopped; unfinished bags were not written'
    return run_command('evaluate_bag', partial(_run, args), INPUT_ERRORS, stopped)


if __name__ == '__main__':
    sys.exit(main())
