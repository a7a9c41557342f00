"""
The main job, end to end: a bag is played to the detector over real DDS, and what it says is shown.

    python examples/demo.py [--bag PATH] [--student FILE] [--synthetic] [--out demo_out]

With real frames at hand ($MONO3D_DATA) they are played, and the student of the demo is trained on
them first where there is none. Without any, or with --synthetic, a drive through a part of the
synthetic world that the shipped student has never seen is made, played to it, and scored against
its labels.
Player and detector are processes of their own. Writes to --out: the bag of answers, a picture of
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
STUDENT = ROOT / 'runs/demo/student.safetensors'
CONFIG = 'config/train/demo_mobile.yaml'
SHIPPED = ROOT / 'mono3d_ros/models/synthetic_mobile.safetensors'
#: The synthetic drive; not a seed to train on.
DRIVE_SEED, DRIVE_FRAMES = 2026, 40
#: What the demo writes into its folder, and replaces there; nothing else is touched.
MADE = (
    *('drive', 'played', 'answers', 'pictures', 'detector.log', 'report.json', 'demo.mp4'),
    *('sheet.png', 'latency.png', 'latency.csv'),
)
#: Pictures of the contact sheet, and the length that a video of many pictures is kept to.
SHEET, VIDEO_S = 12, 60.0
console = Console()


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do."""


def data_root():
    """Find the real frames; None where there are none."""
    root = Path(os.environ.get('MONO3D_DATA', ROOT / '../shared/data')).resolve()
    return root if (root / 'training/image_2').is_dir() else None


def run(*command, **options):
    """Run a program of this repository with this Python; DemoError when it fails."""
    code = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, **options).returncode
    if code:
        raise DemoError(f'{" ".join(map(str, command))}: exit code {code}')


def check(args, out):
    """Refuse what cannot work, before anything is trained, written or removed."""
    if args.rate <= 0:
        raise DemoError(f'--rate must be above 0, got {args.rate:g}')
    if args.student is not None and not args.student.is_file():
        raise DemoError(f'{args.student}: no such file; expected a student (.safetensors, ...)')
    if args.bag is not None:
        with BagReader(args.bag) as reader:
            first_camera_topics(reader.topics, args.bag)
        if any(args.bag.resolve().is_relative_to(out / name) for name in MADE):
            raise DemoError(f'{args.bag}: lies in what {args.out} replaces; name another --out')


def remove(path):
    """Remove what an earlier demo made."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def real_student():
    """Return the student of the real frames, trained now where there is none yet."""
    if not STUDENT.exists():
        console.print(
            '[bold]No student yet[/]: training one, once, on the frames of the demo (some minutes '
            'on two CPU cores; stop and start again as you like).'
        )
        environment = {**os.environ, 'MONO3D_DATA': str(data_root())}
        run('-m', 'stl_core', 'train', CONFIG, f'out={STUDENT.parent}', env=environment)
    return STUDENT


def choose_student(args):
    """Return the student given, else the shipped one, but of real frames the one made for them."""
    if args.student is not None:
        return args.student
    real = data_root() is not None and not args.synthetic
    return real_student() if real else SHIPPED


def real_frames(out):
    """Write the KITTI frames into a bag."""
    run('-m', 'mono3d_ros.bags.kitti_to_bag', data_root() / 'training', out / 'played')
    return out / 'played'


def synthetic_drive(out):
    """Make a drive through the synthetic world and write it into a bag; bag and labels."""
    size = ('--frames', DRIVE_FRAMES, '--seed', DRIVE_SEED)
    run('-m', 'stl_core', 'synthesize', out / 'drive', '--sequence', '--no-depth', *size)
    run('-m', 'mono3d_ros.bags.kitti_to_bag', out / 'drive', out / 'played')
    return out / 'played', out / 'drive/object/label_2'


def ros_environment():
    """Make an environment of our own: nobody else's topics, and images that are not lost."""
    return {
        **os.environ,
        # low ids are safe from the system's own ports
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    }


def play(bag, model, out, rate):
    """Play the bag to the detector, both in processes of their own; returns the answers' bag."""
    with BagReader(bag) as reader:
        image_topic, info_topic = first_camera_topics(reader.topics, bag)
    environment = ros_environment()
    parameters = {
        'model': model,
        'image_topic': image_topic.removesuffix('/compressed'),
        'camera_info_topic': info_topic,
        'reliability': 'reliable',  # a replay wants every frame; a vehicle wants the newest
    }
    arguments = [part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')]
    command = [sys.executable, '-m', 'mono3d_ros.node', '--ros-args', *arguments]
    player = [sys.executable, 'examples/replay_bag.py', bag, out / 'answers']
    player += ['--rate', str(rate), '--topics', image_topic, info_topic]
    with (out / 'detector.log').open('w') as log:
        node = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        playing = subprocess.Popen(player, cwd=ROOT, env=environment)
        try:
            while playing.poll() is None and node.poll() is None:
                time.sleep(0.1)
        finally:
            early, code = node.poll() is not None, stop(node)
            stop(playing)
    if early or code:
        said = (out / 'detector.log').read_text().splitlines()
        why = next((line for line in said if 'FATAL' in line), said[-1] if said else 'it was mute')
        raise DemoError(f'the detector ended with exit code {code}: {why} ({out}/detector.log)')
    if playing.returncode:
        raise DemoError(f'the replay ended with exit code {playing.returncode}')
    return out / 'answers'


def stop(process):
    """End a process of ours as Ctrl-C would, by force where that does not help; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def show(bag, answers, out, labels):
    """Draw every frame, write the figures and print them."""
    pictures, first, found = [], [], []
    for number, scene in enumerate(read_scenes(bag)):
        boxes = answers.boxes.get(scene.frame.stamp_ns, recorded_boxes.NO_BOXES)
        found.append(label_score.boxes_to_labels(boxes, scene.frame))
        image = draw_scene(
            scene,
            answers.boxes.get(scene.frame.stamp_ns),
            caption(number, scene.frame.stamp_ns, answers),
        )
        pictures.append(out / f'pictures/{number:06d}.png')
        write_picture(pictures[-1], image)
        first += [image] if number < SHEET else []
    if pictures:
        hold_s = min(0.8, max(0.1, VIDEO_S / len(pictures)))
        write_video(out / 'demo.mp4', pictures, hold_s)
        write_picture(out / 'sheet.png', draw.contact_sheet(first))
    latency = answers.latency_ms
    if latency:
        times = list(latency.values())
        charts.plot_histogram(times, 'ms', 'image sent to boxes received', out / 'latency.png')
    with (out / 'latency.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('stamp_ns', 'latency_ms'), *sorted(latency.items())])
    figures = answers.figures()
    judged = None
    if labels is not None:
        truth = [kitti.read_labels(path) for path in sorted(labels.glob('*.txt'))]
        judged = label_score.score_boxes(truth, found)
    told = {**figures, **({'ap': judged.ap} if judged else {})}
    (out / 'report.json').write_text(json.dumps(told, indent=1) + '\n')
    print_figures(figures, out)
    if judged:
        print_score(judged)


def caption(number, stamp, answers):
    """Say over a picture what was answered, and how fast."""
    found, latency = answers.boxes.get(stamp), answers.latency_ms.get(stamp)
    count = len(found.labels) if found else 0
    said = f'{count} box{"es" * (count != 1)}' if found else 'no answer'
    return f'frame {number}   {said}' + (f'   {latency:.0f} ms' if latency else '')


def print_figures(figures, out):
    """Print the table and where everything lies."""
    table = Table(title='detector over DDS', title_justify='left')
    for name in figures:
        table.add_column(name.replace('_', ' '), justify='right')
    table.add_row(*('-' if value is None else f'{value:g}' for value in figures.values()))
    console.print(table)
    console.print(
        f'pictures/, sheet.png, demo.mp4, latency.png, latency.csv, answers/, report.json in {out}'
    )


def print_score(judged):
    """Print how right the boxes were."""
    table = Table(title='boxes on the topic, against the labels', title_justify='left')
    for heading in label_score.TABLE_HEADINGS:
        table.add_column(heading, justify='left' if heading == 'class' else 'right')
    for row in judged.rows():
        table.add_row(*row)
    console.print(table)


def demo(args):
    """Run the whole chain, the quick checks before the long work."""
    out = args.out.resolve()
    check(args, out)
    model = choose_student(args)
    for name in MADE:
        remove(out / name)
    out.mkdir(parents=True, exist_ok=True)
    bag, labels = args.bag, None
    if bag is None and (args.synthetic or data_root() is None):
        bag, labels = synthetic_drive(out)
    elif bag is None:
        bag = real_frames(out)
    answers = recorded_boxes.read_recorded_detections(
        play(bag.resolve(), model.resolve(), out, args.rate)
    )
    show(bag, answers, out, labels)
    if len(answers.boxes) < answers.num_sent:
        missing = answers.num_sent - len(answers.boxes)
        raise DemoError(
            f'{missing} of {answers.num_sent} images were not answered; see detector.log, or give '
            'a lower --rate where this machine is too slow'
        )


def main():
    """Run the command; exit code 2 and one line where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument(
        '--bag', type=Path, help='default: the real KITTI frames as a bag, or a made drive'
    )
    parser.add_argument('--student', type=Path, help='default: see above')
    parser.add_argument('--synthetic', action='store_true', help='play a made drive')
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
