"""
Measure data loading against training speed, in images per second, on synthetic frames.

python bench/loading.py [--frames 48] [--workers 0 1 2] [--canvas 512x160] [--json FILE]: loading
alone, from PNG and JPEG of KITTI's size, decoded every time or kept in memory, with each number of
processes; and training steps of the mobile model on a batch in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import torch

from stl_core.data import dataset, worker_pool
from stl_core.data.sources import kitti
from stl_core.data.synthetic import writer
from stl_core.data.synthetic.sensors import camera
from stl_core.inference.runtimes.torch_runner import choose_device
from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import Batch, to_device
from stl_core.training import model_builder, optim, stages, train_step
from stl_core.training.resolved_config import resolve_config

#: Training configuration of the shipped model; this benchmark overrides data and canvas.
SHIPPED = Path('config/train/synthetic_mobile.yaml')


def main() -> None:
    """Make the frames, measure loading and training, print the report, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=48)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--canvas', default='512x160', metavar='WIDTHxHEIGHT')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--seconds', type=float, default=10.0, help='duration of each measurement')
    parser.add_argument('--device', default='auto', help='training device: auto, cpu or cuda:N')
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    width, height = (int(side) for side in args.canvas.split('x'))
    spec = InputSpec(width, height)
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder), args.frames)
        rows = [
            {'image': suffix, 'kept': kept, 'workers': workers, 'images_per_s': rate}
            for suffix, source in sources.items()
            for kept in (False, True)
            for workers in args.workers
            for rate in [loading(frames_of(source, spec, kept), workers, args)]
        ]
        frames = frames_of(sources['jpg'], spec, kept=True)
        parts = {suffix: stage_times(source, spec) for suffix, source in sources.items()}
        trained = training(frames, spec, args)
    report = {'canvas': args.canvas, 'batch': args.batch, 'threads': torch.get_num_threads()}
    report |= {'training_images_per_s': trained, 'loading': rows, 'stages_ms': parts}
    print(text_of(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))


def make_sources(root: Path, frames: int) -> dict[str, kitti.KittiFolders]:
    """Make a data set of PNG images and JPEG copies; return the folders by suffix."""
    job = writer.SynthesisJob(str(root), seed=1, model=camera.KITTI, depth=False)
    writer.synthesize_dataset(
        job, frames, workers=worker_pool.available_cpus(), show_progress=False
    )
    training = root / 'training'
    (training / 'jpg').mkdir()
    for path in (training / 'image_2').iterdir():
        options = (cv2.IMWRITE_JPEG_QUALITY, 95)
        cv2.imwrite(str(training / 'jpg' / f'{path.stem}.jpg'), cv2.imread(str(path)), options)
    calib, label_2 = str(training / 'calib'), str(training / 'label_2')
    return {
        suffix: kitti.KittiFolders(str(training / folder), calib, label_2)
        for suffix, folder in (('png', 'image_2'), ('jpg', 'jpg'))
    }


def frames_of(source: kitti.KittiFolders, spec: InputSpec, kept: bool) -> dataset.FrameDataset:
    """Return the data set with the shipped training configuration."""
    shipped = stages.load_stages(SHIPPED)['first'].train
    data = dataclasses.replace(shipped, sources=(source,), split='', keep_images=kept)
    return dataset.FrameDataset(data, spec, kitti.CLASSES, seed=0)


def loading(frames: dataset.FrameDataset, workers: int, args: Any) -> float:
    """Return images per second of loading alone, after the prefetched batches."""
    batches = endless(frames, workers, args.batch)
    for _ in range(max(4 * workers, 2)):  # batches prefetched before the measurement
        next(batches)
    images, began = 0, time.perf_counter()
    while time.perf_counter() - began < args.seconds:
        images += len(next(batches).ids)
    return images / (time.perf_counter() - began)


def endless(frames: dataset.FrameDataset, workers: int, batch: int) -> Iterator[Batch]:
    """Yield the batches of endless epochs."""
    sampler = dataset.ShuffledBatchSampler(len(frames), batch, seed=0)
    loader = dataset.make_dataloader(frames, sampler, workers)
    while True:
        yield from loader
        sampler.epoch += 1


def stage_times(source: kitti.KittiFolders, spec: InputSpec) -> dict[str, float]:
    """Return milliseconds per image in one process: decoding, and everything else."""
    frames = frames_of(source, spec, kept=True)
    ms_per_image = 1000 / len(frames)
    began = time.perf_counter()
    for image in frames.images:
        image.pixels.read()
    decoded = time.perf_counter()
    for index in range(len(frames)):
        frames[0, index]
    done = time.perf_counter()
    return {
        'decoding': (decoded - began) * ms_per_image,
        'placing': (done - decoded) * ms_per_image,
    }


def training(frames: dataset.FrameDataset, spec: InputSpec, args: Any) -> float:
    """Return images per second of training steps of the mobile model on one batch."""
    device = choose_device(args.device)
    config = dataclasses.replace(
        stages.load_stages(SHIPPED)['first'], input=spec, batch_size=args.batch
    )
    learner = (
        model_builder.build_model(resolve_config(config))
        .to(device)
        .to(memory_format=torch.channels_last)
        .train()
    )
    optimizer = optim.Optimizer(
        learner,
        learner.detector,
        config.optim,
        config.precision,
        optim.optimizer_groups(learner),
    )
    batch = to_device(next(endless(frames, 0, args.batch)), device)

    def steps(seconds: float) -> float:
        images, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            losses = train_step.train_step(learner, batch, optimizer, config.weights, 0.0)
            images += len(batch.ids)
            float(losses['total'])  # waits for the device to finish
        return images / (time.perf_counter() - began)

    steps(args.seconds / 4)
    return steps(args.seconds)


def text_of(report: dict[str, Any]) -> str:
    """Format the report: images per second, and the ratio of loading to training speed."""
    trained = report['training_images_per_s']
    lines = [
        f'canvas {report["canvas"]}, batch {report["batch"]}, torch threads {report["threads"]}',
        f'training steps of the mobile model: {trained:.1f} images/s',
        f'{"image":7}{"kept":6}{"workers":>8}{"images/s":>10}{"/ training":>12}',
    ]
    lines += [
        f'{row["image"]:7}{"yes" if row["kept"] else "no":6}{row["workers"]:8}'
        f'{row["images_per_s"]:10.1f}{row["images_per_s"] / trained:12.2f}'
        for row in report['loading']
    ]
    lines += [
        f'{suffix}: {each["decoding"]:.1f} ms to decode, {each["placing"]:.1f} ms for the rest'
        for suffix, each in report['stages_ms'].items()
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
