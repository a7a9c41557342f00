"""The command `stl synthesize`: render a labelled synthetic data set."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from stl_core.cli.output import OutputFolder
from stl_core.data import worker_pool
from stl_core.data.frame_source import DataError
from stl_core.data.synthetic import sequence, writer
from stl_core.data.synthetic.nuscenes import rig
from stl_core.data.synthetic.nuscenes.database import synthesize_database
from stl_core.data.synthetic.nuscenes.sample import DatabaseJob
from stl_core.data.synthetic.sensors import camera
from stl_core.data.synthetic.sensors.lidar import Lidar


def add_command(commands: Any) -> None:
    """Add `stl synthesize` to the subcommands."""
    parser = commands.add_parser(
        'synthesize',
        help='render a labelled synthetic data set in the layout of KITTI or nuScenes',
    )
    parser.add_argument(
        'out', type=OutputFolder, help='folder of the data set; an interrupted run resumes'
    )
    add_world_options(parser)
    parser.add_argument(
        '--sequence',
        action='store_true',
        help='render one drive at 10 Hz, in KITTI tracking layout',
    )
    parser.add_argument(
        '--format',
        choices=('kitti', 'nuscenes'),
        default='kitti',
        help='layout; nuscenes: a database of six cameras and a LiDAR, of --frames samples'
        ' (default: %(default)s)',
    )
    parser.add_argument(
        '--samples-per-scene',
        type=int,
        default=20,
        help='of a nuScenes database, 2 a second (default: %(default)s)',
    )
    parser.add_argument(
        '--sweeps',
        type=int,
        default=0,
        help='of a nuScenes database: scans before each sample (default: %(default)s)',
    )
    parser.add_argument('--no-depth', action='store_true', help='do not write dense depth maps')
    parser.set_defaults(run=_run_synthesize)


def add_world_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that parse_job reads."""
    parser.add_argument('--frames', type=int, required=True, help='number of frames')
    parser.add_argument('--seed', type=int, default=0, help='random seed of the scenes')
    parser.add_argument(
        '--camera', default='kitti', help='camera model: kitti, nuscenes or a JSON file'
    )
    parser.add_argument(
        '--size', help='image size as WIDTHxHEIGHT, such as 640x192 (default: that of the camera)'
    )
    parser.add_argument(
        '--surround', action='store_true', help='six surround cameras, for a drive'
    )
    parser.add_argument('--no-lidar', action='store_true', help='do not write velodyne scans')
    parser.add_argument(
        '--jpg', action='store_true', help='write JPEG images, a fifth of the size of PNG'
    )
    parser.add_argument(
        '--workers', type=int, default=worker_pool.available_cpus(), help='number of processes'
    )
    parser.add_argument('--device', default='cpu', help='device that renders: cpu or cuda:N')


def parse_job(args: argparse.Namespace, out: str, depth: bool) -> writer.SynthesisJob:
    """
    Build the synthesis job from command-line arguments.

    :param args: parsed arguments of add_world_options.
    :param out: folder of the data set.
    :param depth: whether to write dense depth maps.
    :return: the job.
    :raises DataError: naming the invalid argument.
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
    if args.format == 'nuscenes':
        _synthesize_database(args)
        return
    if args.surround and not args.sequence:
        raise DataError('--surround: requires --sequence')
    job = parse_job(args, args.out, depth=not args.no_depth)
    if args.sequence:
        sequence.synthesize_drive(job, args.frames, args.workers, args.surround)
    else:
        writer.synthesize_dataset(job, args.frames, args.workers)
    logging.info('%s: %d frames', args.out, args.frames)


def _synthesize_database(args: argparse.Namespace) -> None:
    """Render a nuScenes database; options that it does not have are errors."""
    if args.sequence or args.no_lidar or args.camera not in ('kitti', 'nuscenes'):
        raise DataError('--format nuscenes: has a LiDAR and cameras of its own, and no --sequence')
    most = rig.SAMPLE_PERIOD_US // rig.SWEEP_PERIOD_US - 1
    if not 0 <= args.sweeps <= most:
        raise DataError(f'--sweeps {args.sweeps}: expected 0 to {most}')
    if args.samples_per_scene < 1:
        raise DataError(f'--samples-per-scene {args.samples_per_scene}: expected at least 1')
    args.camera, args.size = 'nuscenes', args.size or '352x128'
    model = parse_job(args, args.out, depth=False).model
    job = DatabaseJob(
        out=args.out,
        seed=args.seed,
        samples_per_scene=args.samples_per_scene,
        width_px=model.width_px,
        height_px=model.height_px,
        sweeps=args.sweeps,
        suffix='.jpg' if args.jpg else '.png',
        device=args.device,
    )
    logging.info('%s: %s', args.out, synthesize_database(job, args.frames, args.workers))
