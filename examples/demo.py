"""
Demo, end to end: play a bag to the detector node over DDS and draw the recorded detections.

    python examples/demo.py [--bag PATH] [--student FILE] [--synthetic] [--out demo_out]

If real frames are available ($MONO3D_DATA), the demo plays them, after training a model on them on
the first run. Without real frames, or with --synthetic, it renders a synthetic drive that the
shipped model was not trained on, plays it to that model and scores the detections against the
labels.
Player and detector run as separate processes. Writes to --out: the bag of detections, a picture of
every frame, a video, latency.png and latency.csv, report.json; prints the same figures as tables.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mono3d_ros.bag_evaluation import label_score
from mono3d_ros.bag_evaluation.pictures import (
    draw_scene,
    first_camera_topics,
    read_scenes,
    write_picture,
    write_video,
)
from mono3d_ros.bags import recorded_boxes
from mono3d_ros.bags.bag_io import BagError, BagReader
from stl_core.data.sources import kitti
from stl_core.visualization import charts, draw

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / 'runs/demo/student.safetensors'
CONFIG = 'config/train/demo_mobile.yaml'
SHIPPED_MODEL = ROOT / 'mono3d_ros/models/synthetic_mobile.safetensors'
#: Seed and length of the synthetic drive; do not train on this seed.
DRIVE_SEED, DRIVE_FRAMES = 2026, 40
#: Files and folders that the demo writes to --out and replaces there; others are kept.
OUTPUTS = (
    *('drive', 'played', 'answers', 'pictures', 'detector.log', 'report.json', 'demo.mp4'),
    *('sheet.png', 'latency.png', 'latency.csv'),
)
#: Number of pictures in the contact sheet, and maximum duration of the video.
SHEET_PICTURES, VIDEO_S = 12, 60.0
#: Word that the detector logs once it subscribes to the images.
SIGN_OF_LIFE = 'listening to'
#: Longest silence of the detector before its sign of life, and longest discovery, seconds: on a
#: loaded machine the imports and the warm-up of the network take minutes.
START_TIMEOUT_S, DISCOVERY_TIMEOUT_S = 900.0, 300.0
console = Console()


class DemoError(RuntimeError):
    """The demo cannot continue; the message gives the reason and the remedy."""


def data_root():
    """Return the folder of the real frames; None if there are none."""
    root = Path(os.environ.get('MONO3D_DATA', ROOT / '../shared/data')).resolve()
    return root if (root / 'training/image_2').is_dir() else None


def run(*command, **options):
    """Run a program of this repository with this Python; DemoError if it fails."""
    code = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, **options).returncode
    if code:
        raise DemoError(f'{" ".join(map(str, command))}: exit code {code}')


def check(args, out):
    """Check the arguments before training, writing or removing anything."""
    if args.rate <= 0:
        raise DemoError(f'--rate must be above 0, got {args.rate:g}')
    if args.student is not None and not args.student.is_file():
        raise DemoError(f'{args.student}: no such file; expected a model file (.safetensors, ...)')
    if args.bag is not None:
        with BagReader(args.bag) as reader:
            first_camera_topics(reader)
        if any(args.bag.resolve().is_relative_to(out / name) for name in OUTPUTS):
            raise DemoError(
                f'{args.bag}: the demo replaces it in {args.out}; choose another --out'
            )


def remove(path):
    """Remove a file or folder of an earlier run."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def real_frames_model():
    """Return the model of the real frames, trained now if it does not exist."""
    if not DEMO_MODEL.exists():
        console.print(
            '[bold]No model yet[/]: training one, once, on the frames of the demo (some minutes '
            'on two CPU cores; a stopped training is resumed).'
        )
        environment = {**os.environ, 'MONO3D_DATA': str(data_root())}
        run('-m', 'stl_core', 'train', CONFIG, f'out={DEMO_MODEL.parent}', env=environment)
    return DEMO_MODEL


def choose_model(args):
    """Return the given model, else that of the real frames if they are played, or the shipped."""
    if args.student is not None:
        return args.student
    real = data_root() is not None and not args.synthetic
    return real_frames_model() if real else SHIPPED_MODEL


def real_frames(out):
    """Convert the real KITTI frames to a bag; returns its path."""
    run('-m', 'mono3d_ros.bags.kitti_to_bag', data_root() / 'training', out / 'played')
    return out / 'played'


def synthetic_drive(out):
    """Render a synthetic drive and convert it to a bag; returns the bag and the label folder."""
    size = ('--frames', DRIVE_FRAMES, '--seed', DRIVE_SEED)
    run('-m', 'stl_core', 'synthesize', out / 'drive', '--sequence', '--no-depth', *size)
    run('-m', 'mono3d_ros.bags.kitti_to_bag', out / 'drive', out / 'played')
    return out / 'played', out / 'drive/object/label_2'


def ros_environment():
    """Return an environment with a separate ROS domain and a transport that loses no image."""
    return {
        **os.environ,
        # low ids do not collide with the ephemeral ports of the system
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    }


def play(bag, model, out, rate):
    """Play the bag to the detector, in separate processes; returns the bag of detections."""
    with BagReader(bag) as reader:
        image_topic, info_topic = first_camera_topics(reader)
    environment = ros_environment()
    parameters = {
        'model': model,
        'image_topic': image_topic.removesuffix('/compressed'),
        'camera_info_topic': info_topic,
        'reliability': 'reliable',  # a replay needs every frame; a vehicle needs the newest
    }
    arguments = [part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')]
    command = [sys.executable, '-m', 'mono3d_ros.node', '--ros-args', *arguments]
    player = [sys.executable, 'examples/replay_bag.py', bag, out / 'answers']
    player += ['--rate', str(rate), '--timeout', str(DISCOVERY_TIMEOUT_S)]
    player += ['--topics', image_topic, info_topic]
    with (out / 'detector.log').open('w') as log:
        node = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        playing = None
        try:
            if wait_until_listening(node, out / 'detector.log'):
                playing = subprocess.Popen(player, cwd=ROOT, env=environment)
            while node.poll() is None and playing.poll() is None:
                time.sleep(0.1)
        finally:
            ended_early, code = node.poll() is not None, stop(node)
            if playing is not None:
                stop(playing)
    if ended_early or code:
        lines = (out / 'detector.log').read_text().splitlines()
        last = lines[-1] if lines else 'it logged nothing'
        reason = next((line for line in lines if 'FATAL' in line), last)
        raise DemoError(f'the detector ended with exit code {code}: {reason} ({out}/detector.log)')
    if playing.returncode:
        raise DemoError(f'the replay ended with exit code {playing.returncode}')
    return out / 'answers'


def wait_until_listening(node, log, timeout_s=START_TIMEOUT_S):
    """
    Wait, with progress, until the detector logs its sign of life; return False if it ends instead.

    :param node: process of the detector.
    :param log: file of its log.
    :param timeout_s: longest wait; DemoError after it.
    """
    start_s = time.monotonic()
    with console.status('') as status:
        while node.poll() is None:
            if SIGN_OF_LIFE in log.read_text(errors='replace'):
                return True
            seconds = time.monotonic() - start_s
            if seconds > timeout_s:
                raise DemoError(f'the detector is not ready after {seconds:.0f} s; see {log}')
            status.update(f'the detector loads and warms up its model: {seconds:.0f} s')
            time.sleep(0.2)
    return False


def stop(process):
    """Send SIGINT to a process, kill it after 30 s; returns its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def write_results(bag, detections, out, labels):
    """Draw every frame, write the figures and print them."""
    pictures, first, predictions = [], [], []
    for number, scene in enumerate(read_scenes(bag)):
        boxes = detections.boxes.get(scene.frame.stamp_ns, recorded_boxes.NO_BOXES)
        predictions.append(recorded_boxes.boxes_to_labels(boxes, scene.frame))
        image = draw_scene(
            scene,
            detections.boxes.get(scene.frame.stamp_ns),
            caption(number, scene.frame.stamp_ns, detections),
        )
        pictures.append(out / f'pictures/{number:06d}.png')
        write_picture(pictures[-1], image)
        first += [image] if number < SHEET_PICTURES else []
    if pictures:
        hold_s = min(0.8, max(0.1, VIDEO_S / len(pictures)))
        write_video(out / 'demo.mp4', pictures, hold_s)
        write_picture(out / 'sheet.png', draw.contact_sheet(first))
    latency = detections.latency_ms
    if latency:
        times = list(latency.values())
        charts.plot_histogram(times, 'ms', 'image sent to boxes received', out / 'latency.png')
    with (out / 'latency.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('stamp_ns', 'latency_ms'), *sorted(latency.items())])
    figures = detections.summary()
    box_score = None
    if labels is not None:
        truth = [kitti.read_labels(path) for path in sorted(labels.glob('*.txt'))]
        box_score = label_score.score_boxes(truth, predictions)
    report = {**figures, **({'ap': box_score.ap.to_json()} if box_score else {})}
    (out / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    print_figures(figures, out)
    if box_score:
        print_score(box_score)


def caption(number, stamp_ns, detections):
    """Return the caption of a picture: number of boxes and latency."""
    boxes, latency_ms = detections.boxes.get(stamp_ns), detections.latency_ms.get(stamp_ns)
    count = len(boxes.labels) if boxes else 0
    text = f'{count} box{"es" * (count != 1)}' if boxes else 'no detection message'
    return f'frame {number}   {text}' + (f'   {latency_ms:.0f} ms' if latency_ms else '')


def print_figures(figures, out):
    """Print the table of figures and the names of the output files."""
    table = Table(title='detector over DDS', title_justify='left')
    for name in figures:
        table.add_column(name.replace('_', ' '), justify='right')
    table.add_row(*('-' if value is None else f'{value:g}' for value in figures.values()))
    console.print(table)
    console.print(
        f'pictures/, sheet.png, demo.mp4, latency.png, latency.csv, answers/, report.json in {out}'
    )


def print_score(box_score):
    """Print the score of the boxes against the labels."""
    table = Table(title='published boxes against labels', title_justify='left')
    for heading in label_score.TABLE_HEADINGS:
        table.add_column(heading, justify='left' if heading == 'class' else 'right')
    for row in box_score.table_rows():
        table.add_row(*row)
    console.print(table)


def demo(args):
    """Run the demo; the quick checks come before the long work."""
    out = args.out.resolve()
    check(args, out)
    model = choose_model(args)
    for name in OUTPUTS:
        remove(out / name)
    out.mkdir(parents=True, exist_ok=True)
    bag, labels = args.bag, None
    if bag is None and (args.synthetic or data_root() is None):
        bag, labels = synthetic_drive(out)
    elif bag is None:
        bag = real_frames(out)
    detections = recorded_boxes.read_recorded_detections(
        play(bag.resolve(), model.resolve(), out, args.rate)
    )
    write_results(bag, detections, out, labels)
    if len(detections.boxes) < detections.num_sent:
        missing = detections.num_sent - len(detections.boxes)
        raise DemoError(
            f'{missing} of {detections.num_sent} images have no detection message; see '
            'detector.log, or lower --rate if this machine is too slow'
        )


def main():
    """Run the command; returns exit code 2 after one line on stderr for an error."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument(
        '--bag', type=Path, help='default: the real KITTI frames as a bag, or a synthetic drive'
    )
    parser.add_argument(
        '--student', type=Path, help='model file; default: trained on the real frames, or shipped'
    )
    parser.add_argument('--synthetic', action='store_true', help='play a synthetic drive')
    parser.add_argument(
        '--out', type=Path, default=Path('demo_out'), help='earlier results there are replaced'
    )
    parser.add_argument('--rate', type=float, default=0.5, help='1 is real time')
    try:
        demo(parser.parse_args())
    except (DemoError, BagError, OSError) as err:
        print(f'demo: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
