"""
Benchmark the time that distillation adds to a training step, relative to teacher and student.

python bench/distill.py [tiny study mobile mobile_dla34 dla34] [--device cpu] [--threads 1]:
uses random weights and boxes; study has the canvas, strides and losses of
config/study/monostl.yaml. Prints the median ms of the student forward and backward with its
detection losses, of the teacher forward, and of the layers between the networks and every loss
forward and backward; and the time of the default losses, without and with the layers, as
percentage of teacher and student.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stl_core.distill import LOSSES
from stl_core.distill.distiller import Distiller, DistillLayersConfig
from stl_core.distill.losses import relation
from stl_core.distill.view import DistillView
from stl_core.models import DETECTORS
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import Batch, NetworkInput, pad_targets, to_device
from stl_core.tensors.detector import Detector
from stl_core.tensors.feature_level import FeatureLevel
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.types import ImageObjects

MOBILE = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 64}
DLA34 = {'backbone': 'dla34', 'neck': 'dlaup', 'head_width': 256}
DEFAULT = ('feature', 'relation', 'response')


class Size(NamedTuple):
    """Options of two MonoDLE networks, canvas, images per step, strides and options of DASRD."""

    student: dict[str, Any]
    teacher: dict[str, Any]
    canvas: InputSpec
    batch: int = 6
    strides: tuple[int, ...] = (8, 16, 32)
    relation: relation.RelationLossConfig = relation.RelationLossConfig()


SIZES = {
    'tiny': Size(MOBILE, MOBILE, InputSpec(256, 96)),
    'study': Size(
        MOBILE,
        MOBILE,
        InputSpec(320, 96),
        16,
        (4, 8),
        relation.RelationLossConfig(across_images=1.0),
    ),
    'mobile': Size(MOBILE, MOBILE, InputSpec(512, 160)),
    'mobile_dla34': Size(MOBILE, DLA34, InputSpec(512, 160)),
    'dla34': Size(DLA34, DLA34, InputSpec(1280, 384)),
}


def main() -> None:
    """Measure and print every size of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('sizes', nargs='*', default=['study', 'mobile', 'mobile_dla34', 'dla34'])
    parser.add_argument('--objects', type=int, default=5, help='per image; KITTI has 5')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, help="CPU threads; default: torch's choice")
    args = parser.parse_args()
    unknown = set(args.sizes) - SIZES.keys()
    if unknown:
        parser.error(f'unknown: {", ".join(unknown)}; known: {", ".join(SIZES)}')
    torch.set_num_threads(args.threads or torch.get_num_threads())
    for name in args.sizes:
        size, device = SIZES[name], torch.device(args.device)
        batch = to_device(a_batch(size.canvas, size.batch, args.objects), device)
        model = build(size).to(device).to(memory_format=torch.channels_last).train()
        times_ms = measure(model, batch, partial(median_ms, device=device, repeats=args.repeats))
        shape = f'{size.batch} x {size.canvas.width_px} x {size.canvas.height_px}'
        print(f'{name}: {shape}, {args.objects} objects each, {device}')
        report(times_ms)


def measure(
    model: Distiller, batch: Batch, clock: Callable[[Callable[[], object]], float]
) -> dict[str, float]:
    """Time the parts of a training step; returns {part: ms}."""
    student: Any = model.student
    inputs = model.student_input(batch)

    def train_student() -> None:
        out = student(inputs, batch.targets)
        torch.stack(
            list(student.losses(out, batch.targets, SINGLE_PART).values())
        ).sum().backward()

    def run_teacher() -> None:
        with torch.no_grad():
            model.teacher(model.teacher_input(batch))

    def run_layers() -> None:
        adapted = model._adapt_features(levels, model.alone_epochs)
        torch.stack([each.mean() for each in adapted.values()]).sum().backward()

    view = model.make_view(student(inputs, batch.targets), batch, 0.0)
    levels = {
        name: FeatureLevel(leaf(each.map), each.spec) for name, each in view.student.levels.items()
    }
    times_ms = {
        'student': clock(train_student),
        'teacher': clock(run_teacher),
        'layers': clock(run_layers),
    }
    for name, entry in LOSSES.items():
        if entry.loss is None:
            continue
        config = model.losses.get(name, entry.config())
        times_ms[name] = clock(
            lambda e=entry, c=config: e.loss(leaves(view), c, SINGLE_PART).backward()  # type: ignore
        )
    return times_ms


def report(times_ms: dict[str, float]) -> None:
    """Print the table, and the default losses as percentage of teacher and student."""
    both = times_ms['student'] + times_ms['teacher']
    for name, ms in times_ms.items():
        print(f'  {name:<16} {ms:9.2f} ms {100 * ms / both:6.1f} %')
    losses = sum(times_ms[name] for name in DEFAULT)
    for label, ms in (
        (' + '.join(DEFAULT), losses),
        ('these and the layers', losses + times_ms['layers']),
    ):
        print(f'  {label}: {ms:.1f} ms, {100 * ms / both:.1f} % of teacher and student')


def median_ms(run: Callable[[], object], *, device: torch.device, repeats: int) -> float:
    """Return the median time of a call, ms, after a warm-up call."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def leaves(view: DistillView) -> DistillView:
    """Detach the student's tensors of a view from the network: gradients end there."""
    student = replace(
        view.student,
        heads={name: leaf(each) for name, each in view.student.heads.items()},
        predictions={name: leaf(each) for name, each in view.student.predictions.items()},
    )
    adapted = {stride: leaf(each) for stride, each in view.adapted.items()}
    return replace(view, student=student, adapted=adapted)


def leaf(value: Tensor) -> Tensor:
    """Return a detached tensor that requires a gradient."""
    return value.detach().requires_grad_()


def build(size: Size) -> Distiller:
    """Build student and teacher with random weights."""
    entry = DETECTORS['monodle']

    def network(options: dict[str, Any]) -> Detector:
        return entry.detector(entry.config(**options), in_channels=3, num_classes=3)

    def pixels(batch: Batch) -> NetworkInput:
        return normalization.network_input(batch, size.canvas)

    return Distiller(
        network(size.student),
        network(size.teacher),
        {name: LOSSES[name].config() for name in DEFAULT} | {'relation': size.relation},
        DistillLayersConfig(size.strides),
        student_input=pixels,
        teacher_input=pixels,
    )


def a_batch(canvas: InputSpec, rows: int, count: int) -> Batch:
    """Make a batch of noise images with boxes as wide as cars 5 to 60 m away."""
    rng = np.random.default_rng(0)
    width, height = canvas.width_px, canvas.height_px
    P = torch.tensor([[0.58 * width, 0, width / 2, 0], [0, 0.58 * width, height / 2, 0]])
    P = torch.cat([P, torch.tensor([[0.0, 0, 1, 0]])]).repeat(rows, 1, 1)

    def objects() -> ImageObjects:
        depth_m = rng.uniform(5, 60, count)
        half = 0.58 * width * np.array([1.5, 0.8]) / depth_m[:, None]
        middle = rng.uniform([0, 0], [width, height], (count, 2))
        box = np.concatenate([middle - half, middle + half], 1)
        return ImageObjects(
            class_id=rng.integers(0, 3, count),
            score=np.ones(count),
            center_px=middle,
            depth_m=depth_m,
            size_hwl_m=rng.uniform(1, 4, (count, 3)),
            alpha=rng.uniform(-np.pi, np.pi, count),
            box_px=np.clip(box, 0, [width - 1, height - 1] * 2),
            depth_log_sigma=np.zeros(count),
        )

    image = rng.integers(0, 256, (rows, height, width, 3), np.uint8)
    targets = pad_targets([objects() for _ in range(rows)], 50)
    return Batch(torch.from_numpy(image), P.float(), targets, tuple(map(str, range(rows))))


if __name__ == '__main__':
    main()
