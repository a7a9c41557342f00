"""
The main job, end to end: a bag is played to the detector over real DDS, and what it says is shown.

    python examples/demo.py [--bag PATH] [--student FILE] [--out demo_out]

Trains the student of the demo first where there is none. Player and detector are processes of
their own. Writes to --out: the bag of answers, a picture of every frame, a video, latency.png and
report.json; prints the same figures as a table.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mono3d_ros import report
from mono3d_ros.bag import BagError, BagReader
from stl_core import charts, draw

ROOT = Path(__file__).resolve().parents[1]
STUDENT = ROOT / 'runs/demo/student.safetensors'
CONFIG = 'config/train/demo_mobile.yaml'
console = Console()


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do."""


def data_root():
    """Find the real frames; DemoError where there are none."""
    root = Path(os.environ.get('MONO3D_DATA', ROOT / '../shared/data')).resolve()
    if not (root / 'training/image_2').is_dir():
        raise DemoError(
            f'{root}: no KITTI frames (training/image_2) here; set MONO3D_DATA, or give both '
            '--bag and --student'
        )
    return root


def run(*command, **options):
    """Run a program of this repository with this Python; DemoError when it fails."""
    code = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, **options).returncode
    if code:
        raise DemoError(f'{" ".join(map(str, command))}: exit code {code}')


def student(given):
    """Return the student file, trained now where there is none yet."""
    if given is not None:
        return given.resolve()
    if not STUDENT.exists():
        root = data_root()
        console.print(
            '[bold]No student yet[/]: training one, once, on the frames of the demo (some minutes '
            'on two CPU cores; stop and start again as you like).'
        )
        environment = {**os.environ, 'MONO3D_DATA': str(root)}
        run('-m', 'stl_core', 'train', CONFIG, f'out={STUDENT.parent}', env=environment)
    return STUDENT


def bag_of_real_frames(out):
    """Write the KITTI frames into a bag."""
    run('-m', 'mono3d_ros.kitti_to_bag', data_root() / 'training', out / 'played')
    return out / 'played'


def ros_environment():
    """Make an environment of our own: nobody else's topics, and images that are not lost."""
    return {
        **os.environ,
        'ROS_DOMAIN_ID': str(100 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    }


def play(bag, model, out, rate):
    """Play the bag to the detector, both in processes of their own; returns the answers' bag."""
    with BagReader(bag) as reader:
        image_topic, info_topic = report.camera_topics(reader.topics, bag)
    environment = ros_environment()
    parameters = {
        'model': model,
        'image_topic': image_topic.removesuffix('/compressed'),
        'camera_info_topic': info_topic,
        'reliability': 'reliable',  # a replay wants every frame; a vehicle wants the newest
    }
    arguments = [part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')]
    command = [sys.executable, '-m', 'mono3d_ros.node', '--ros-args', *arguments]
    with (out / 'detector.log').open('w') as log:
        node = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            run('examples/replay_bag.py', bag, out / 'answers', '--rate', rate, env=environment)
        finally:
            node.send_signal(signal.SIGINT)
            code = node.wait(timeout=30)
    if code:
        raise DemoError(f'the detector ended with exit code {code}; see {out}/detector.log')
    return out / 'answers'


def show(bag, answers, out):
    """Draw every frame and print the figures."""
    pictures = []
    for number, scene in enumerate(report.read_scenes(bag)):
        stamp = scene.frame.stamp_ns
        found = answers.boxes.get(stamp)
        said = f'{len(found.labels)} boxes' if found else 'no answer'
        latency = answers.latency_ms.get(stamp)
        caption = f'frame {number}   {said}' + (f'   {latency:.0f} ms' if latency else '')
        pictures.append(report.picture(scene, found, caption))
        report.write_picture(out / f'pictures/{number:06d}.png', pictures[-1])
    if pictures:
        report.write_video(out / 'demo.mp4', pictures, hold_s=0.8)
        report.write_picture(out / 'sheet.png', draw.contact_sheet(pictures[:12]))
    latency = list(answers.latency_ms.values())
    if latency:
        charts.histogram(latency, 'ms', 'image sent to boxes received', out / 'latency.png')
    figures = answers.figures()
    (out / 'report.json').write_text(json.dumps(figures, indent=1))
    table = Table(title='detector over DDS', title_justify='left')
    for name in figures:
        table.add_column(name.replace('_', ' '), justify='right')
    table.add_row(*(f'{value:g}' for value in figures.values()))
    console.print(table)
    console.print(f'pictures/, sheet.png, demo.mp4, latency.png, answers/, report.json in {out}')


def demo(args):
    """Run the whole chain."""
    model = student(args.student)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    bag = args.bag.resolve() if args.bag else bag_of_real_frames(args.out.resolve())
    answers = report.read_answers(play(bag, model, args.out.resolve(), args.rate))
    show(bag, answers, args.out)
    if len(answers.boxes) < answers.sent:
        missing = answers.sent - len(answers.boxes)
        raise DemoError(
            f'{missing} of {answers.sent} images were not answered; see detector.log, or give a '
            'lower --rate where this machine is too slow'
        )


def main():
    """Run the command; exit code 2 and one line where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--bag', type=Path, help='default: the real KITTI frames as a bag')
    parser.add_argument('--student', type=Path, help='default: trained on the frames of the demo')
    parser.add_argument('--out', type=Path, default=Path('demo_out'), help='made anew')
    parser.add_argument('--rate', type=float, default=0.5, help='1 is real time')
    try:
        demo(parser.parse_args())
    except (DemoError, BagError) as err:
        print(f'demo: {err}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
