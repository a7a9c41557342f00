"""The command `stl synthesize`."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from stl_core.data.kitti import DataError
from stl_core.data.synthetic import camera, sequence, writer
from stl_core.data.synthetic.lidar import Lidar


def add_command(commands: Any) -> None:
    """Add `synthesize` to the parsers of a command line."""
    parser = commands.add_parser('synthesize', help='make a labelled driving world, KITTI layout')
    parser.add_argument('out', help='folder of the data set; an interrupted run goes on in it')
    parser.add_argument('--frames', type=int, required=True, help='frames, or length of a drive')
    parser.add_argument('--seed', type=int, default=0, help='another seed, other worlds')
    parser.add_argument('--camera', default='kitti', help='kitti, nuscenes or a JSON file')
    parser.add_argument('--size', help='WIDTHxHEIGHT of the images, such as 640x192')
    parser.add_argument(
        '--sequence', action='store_true', help='one drive at 10 Hz, tracking layout'
    )
    parser.add_argument('--surround', action='store_true', help='six cameras; with --sequence')
    parser.add_argument('--no-lidar', action='store_true', help='write no velodyne scans')
    parser.add_argument('--no-depth', action='store_true', help='write no dense depth')
    parser.add_argument('--jpg', action='store_true', help='JPEG images: a fifth of the size')
    parser.add_argument('--workers', type=int, default=writer.cores(), help='processes')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:N')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if args.frames < 1:
        raise DataError(f'--frames {args.frames}: expected at least 1')
    if args.surround and not args.sequence:
        raise DataError('--surround: goes with --sequence')
    model = camera.read_model(args.camera)
    if args.size:
        width, _, height = args.size.partition('x')
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise DataError(f'--size {args.size}: expected WIDTHxHEIGHT, such as 640x192')
        model = model.scaled(int(width), int(height))
    job = writer.Job(
        out=args.out,
        seed=args.seed,
        model=model,
        lidar=None if args.no_lidar else Lidar(),
        depth=not args.no_depth,
        suffix='.jpg' if args.jpg else '.png',
        device=args.device,
    )
    if args.sequence:
        sequence.synthesize(job, args.frames, args.workers, args.surround)
    else:
        writer.synthesize(job, args.frames, args.workers)
    logging.info('%s: %d frames', args.out, args.frames)
