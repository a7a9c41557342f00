"""
The command evaluate_bag: what a student says to a recorded drive, and how right it is; no ROS.

Every image is answered by the code of the node, so nothing is lost and the same command makes the
same answers/ and figures.json, byte for byte. OUT/answers is a bag of its own: /detector/markers
and /detector/detections, of several cameras /detector/CAMERA/..., beside camera_info and tf.
Labels come from CAMERA/ground_truth/labels of the bag, where it has them, or from a folder of
KITTI files, as many as there are images. Where /tf_static tells where the cameras stand on the
vehicle, what two of them see is answered once. BAG may be a folder of bags: each gets its folder
in OUT, and OUT tells of all of them together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mono3d_ros.bag_evaluation import label_score, rerun_export, results, runner
from mono3d_ros.bag_evaluation.replay import LABELS_AUTO, LABELS_TOPIC, EvaluationOptions
from mono3d_ros.bag_evaluation.runner import BagResult, ModelError, ModelRef
from mono3d_ros.bags.bag_io import STORAGES, BagError
from mono3d_ros.bags.drive_reader import DriveQuery, prefer_raw, prefer_rectified
from mono3d_ros.messages.rectification import passthrough_image, rectify_image
from mono3d_ros.params import Params
from mono3d_ros.perception import model_loading

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130

#: What a user can mend: told in one line, without a traceback.
INPUT_ERRORS = (*runner.INPUT_ERRORS, rerun_export.RerunError)


def list_bags(path: Path) -> list[Path]:
    """Return the bags in a folder of bags, in order of their names; none where it is a bag."""
    if not path.is_dir() or (path / 'metadata.yaml').exists():
        return []
    return sorted(
        each
        for each in path.iterdir()
        if (each / 'metadata.yaml').exists() or each.suffix in ('.mcap', '.db3')
    )


def _no_package_share(package: str) -> str:
    raise LookupError(package)  # that is ROS's matter


def _print_result(result: BagResult, out: Path) -> None:
    """Print the figures and where everything lies."""
    console = Console()
    known = result.replay_result.drive_results
    if result.box_score:
        _print_table(
            console,
            'against the labels',
            label_score.TABLE_HEADINGS,
            result.box_score.table_rows(),
        )
    rows = []
    for name, ranges in results.summarize_lidar_errors(known).items():
        if (whole := ranges[-1])['checked']:
            numbers = [f'{whole[key]:g}' for key in list(whole)[2:]]
            rows.append((name, *numbers))
    headings = ('class', 'boxes', 'checked', 'median error (m)', 'median off', '90%', 'within 1 m')
    if rows:
        _print_table(console, 'boxes against the scans', headings, rows)
    for why, count in known.skipped.items():
        console.print(f'{count} left out: {why}', markup=False)
    boxes = sum(len(each.published) for each in known.image_results)
    console.print(f'{len(known.image_results)} images, {boxes} boxes: {out}', markup=False)


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
    parser = argparse.ArgumentParser('evaluate_bag', description=__doc__.split('\n')[1])
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3, or a folder of bags')
    parser.add_argument('out', type=Path, help='the new folder')
    parser.add_argument('--model', default=Params().model, help='student file')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--camera', default='', help='the only one: its namespace or image topic')
    parser.add_argument('--rectify', action='store_true', help='the images are raw: rectify them')
    parser.add_argument(
        '--labels',
        default=LABELS_AUTO,
        help='auto, topic (must be there) or a folder of label files',
    )
    parser.add_argument('--cloud', default='', help='topic of the scans; default: the first')
    parser.add_argument('--max-offset', type=float, default=0.05, help='of a scan, seconds')
    parser.add_argument('--every', type=int, default=1, help='only the first image of so many')
    parser.add_argument('--score', type=float, default=Params().score_threshold, help='least sent')
    parser.add_argument('--track', action='store_true', help='follow objects: stable ids, speeds')
    parser.add_argument(
        '--fixed-frame', default=Params().fixed_frame, help='of /tf, where tracks are followed'
    )
    parser.add_argument(
        '--vehicle-frame', default=Params().vehicle_frame, help='of /tf, where cameras stand'
    )
    parser.add_argument(
        '--max-apart', type=float, default=Params().max_apart_s, help='of one moment, seconds'
    )
    parser.add_argument('--rerun', type=Path, metavar='FILE.rrd', help="for rerun's viewer")
    parser.add_argument('--pictures', type=int, default=8, help='how many images are drawn')
    parser.add_argument('--copy', action='store_true', help='copy images, scans and labels')
    parser.add_argument('--storage', choices=tuple(STORAGES), default='mcap', help='of answers')
    parser.add_argument('--jobs', type=int, default=1, help='bags at a time')
    return parser


def _read_options(args: argparse.Namespace) -> EvaluationOptions:
    door, order = (
        (rectify_image, prefer_raw) if args.rectify else (passthrough_image, prefer_rectified)
    )
    if args.pictures < 0:
        raise BagError(f'--pictures {args.pictures}: expected 0 or more')
    if args.jobs < 1:
        raise BagError(f'--jobs {args.jobs}: expected 1 or more')
    params = Params(tracking=args.track)
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
        ),
        door,
        params,
        label_source=args.labels,
        num_pictures=args.pictures,
        storage=args.storage,
        copy_inputs=args.copy,
    )


def _run(args: argparse.Namespace) -> list[str]:
    """Do what the command line says -> why some of several bags cannot be used."""
    plan, bags = _read_options(args), list_bags(args.bag)
    faults: list[str] = []
    try:
        student = ModelRef(model_loading.find_model(args.model, _no_package_share), args.device)
    except ValueError as err:
        raise ModelError(str(err)) from err
    if bags and plan.label_source not in (LABELS_AUTO, LABELS_TOPIC):
        raise BagError(
            f'{plan.label_source}: label files are of one bag, but {args.bag} has several'
        )
    if bags and args.rerun:
        raise BagError(f'{args.rerun}: a film shows one bag, but {args.bag} has several')
    if bags:
        outcome, faults = runner.evaluate_bags(bags, args.out, student, plan, args.jobs)
    elif args.rerun:
        with rerun_export.RerunRecording(args.rerun) as show:
            outcome = runner.evaluate_one_bag(args.bag, args.out, student, plan, show)
    else:
        outcome = runner.evaluate_one_bag(args.bag, args.out, student, plan)
    _print_result(outcome, args.out)
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one line for bad input."""
    args = _make_parser().parse_args(argv)
    try:
        faults = _run(args)
    except INPUT_ERRORS as err:
        faults = [str(err)]
    except KeyboardInterrupt:
        print('evaluate_bag: stopped; of the bag at hand nothing was written', file=sys.stderr)
        return EXIT_STOPPED
    for fault in faults:
        print(f'evaluate_bag: {fault}', file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


if __name__ == '__main__':
    sys.exit(main())
