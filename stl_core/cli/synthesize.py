"""The command `stl synthesize`."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from stl_core.data import worker_pool
from stl_core.data.sources.kitti import DataError
from stl_core.data.synthetic import sequence, writer
from stl_core.data.synthetic.sensors import camera
from stl_core.data.synthetic.sensors.lidar import Lidar


def add_command(commands: Any) -> None:
    """Add `synthesize` to the parsers of a command line."""
    parser = commands.add_parser('synthesize', help='make a labelled driving world, KITTI layout')
    parser.add_argument('out', help='folder of the data set; an interrupted run goes on in it')
    add_world_options(parser)
    parser.add_argument(
        '--sequence', action='store_true', help='one drive at 10 Hz, tracking layout'
    )
    parser.add_argument('--no-depth', action='store_true', help='write no dense depth')
    parser.set_defaults(run=_run_synthesize)


def add_world_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that read_job reads."""
    parser.add_argument('--frames', type=int, required=True, help='frames, or length of a drive')
    parser.add_argument('--seed', type=int, default=0, help='another seed, other worlds')
    parser.add_argument('--camera', default='kitti', help='kitti, nuscenes or a JSON file')
    parser.add_argument('--size', help='WIDTHxHEIGHT of the images, such as 640x192')
    parser.add_argument('--surround', action='store_true', help='six cameras all round a drive')
    parser.add_argument('--no-lidar', action='store_true', help='write no velodyne scans')
    parser.add_argument('--jpg', action='store_true', help='JPEG images: a fifth of the size')
    parser.add_argument(
        '--workers', type=int, default=worker_pool.available_cpus(), help='processes'
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda:N')


def parse_job(args: argparse.Namespace, out: str, depth: bool) -> writer.SynthesisJob:
    """
    Read what is to be made off the command line.

    :param args: of the arguments that add_world adds.
    :param out: folder of the data set.
    :param depth: whether dense depth is written.
    :return: the work.
    :raises DataError: naming the argument that is wrong.
    """
    if args.frames < 1:
        raise DataError(f'--frames {args.frames}: expected at least 1')
    if args.seed < 0:
        raise DataError(f'--seed {args.seed}: expected 0 or more')
    model = camera.read_camera_model(args.camera)
    if args.size:
        width, _, height = args.size.partition('x')
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise DataError(f'--size {args.size}: expected WIDTHxHEIGHT, such as 640x192')
        model = model.scaled(int(width), int(height))
    return writer.SynthesisJob(
        out=out,
        seed=args.seed,
        model=model,
        lidar=None if args.no_lidar else Lidar(),
        depth=depth,
        suffix='.jpg' if args.jpg else '.png',
        device=args.device,
    )


def _run_synthesize(args: argparse.Namespace) -> None:
    if args.surround and not args.sequence:
        raise DataError('--surround: goes with --sequence')
    job = parse_job(args, args.out, depth=not args.no_depth)
    if args.sequence:
        sequence.synthesize_drive(job, args.frames, args.workers, args.surround)
    else:
        writer.synthesize_dataset(job, args.frames, args.workers)
    logging.info('%s: %d frames', args.out, args.frames)
