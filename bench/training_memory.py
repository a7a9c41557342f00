"""
Measure the memory that a training step of a plan keeps for its gradient.

python bench/training_memory.py PLAN.yaml [key=value ...] [--images 1] [--device cpu]
Runs one forward pass of every stage at the plan's canvas and precision, on random images with
eight objects each, without weights or data, and adds up the tensors that autograd keeps until the
backward pass. The kept bytes grow in proportion to the images of a step. Not counted: inputs of
layers under checkpoint_activations, workspace of convolutions, fragmentation. On the CPU,
attention keeps its matrix of weights, which fused kernels of GPUs do not keep, so that a GPU needs
less for MonoDETR. On a GPU, the peak of the whole step (forward, backward) is printed, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stl_core.inference import model_file
from stl_core.inference.runtimes.torch_runner import choose_device
from stl_core.tensors.batch import Batch, pad_targets, to_device
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training import model_builder, stages
from stl_core.training.config import TrainConfig
from stl_core.training.resolved_config import resolve_config
from stl_core.types import ImageObjects

OBJECTS = 8
GB = 1e9


def main() -> None:
    """Print a row for every stage of the plan."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('plan')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='overrides of the plan')
    parser.add_argument('--images', type=int, default=1, help='images of the measured step')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:N')
    args = parser.parse_args()
    device = choose_device(args.device)
    print('| stage | images a step | kept, GB an image | kept, GB a step | weights, moments, GB |')
    print('|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        for name, config in stages.load_stages(args.plan, tuple(args.overrides)).items():
            config = with_random_weights(config, Path(folder), name)
            kept, state, peak = measure(config, args.images, device)
            images = -(-config.batch_size // config.accumulate)
            note = f', peak of {args.images} images {peak / GB:.2f} GB' if peak else ''
            print(
                f'| {name or "run"} | {images} | {kept / GB:.2f} | {images * kept / GB:.1f} |'
                f' {state / GB:.2f} |{note}',
                flush=True,
            )


def with_random_weights(config: TrainConfig, folder: Path, name: str) -> TrainConfig:
    """Let a stage start from files with random weights, and write those of the stage itself."""
    options = config.detector.options
    if hasattr(options, 'pretrained'):
        options = dataclasses.replace(options, pretrained=False)
    changes: dict[str, Any] = {'detector': dataclasses.replace(config.detector, options=options)}
    if config.start:
        changes['start'] = str(folder / 'base.safetensors')
    if config.distill:
        teacher = str(folder / 'teacher.safetensors')
        changes['distill'] = dataclasses.replace(config.distill, teacher=teacher)
    config = dataclasses.replace(config, **changes)
    resolved = resolve_config(config)
    detector = model_builder.build_model(resolved).detector
    model_file.save_model(folder / f'{name}.safetensors', detector, resolved.model_spec)
    return config


def measure(config: TrainConfig, images: int, device: torch.device) -> tuple[float, float, float]:
    """Return bytes kept per image, bytes of weights, gradients and moments, and a GPU's peak."""
    torch.manual_seed(0)
    model: Any = model_builder.build_model(resolve_config(config))
    model.to(device).to(memory_format=torch.channels_last).train()
    batch = to_device(random_batch(config, images), device)
    parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def record(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            # keeping the tensor prevents that another one takes its address
            kept[storage.data_ptr()] = storage.nbytes(), value
        return value

    with torch.autograd.graph.saved_tensors_hooks(record, lambda value: value):
        losses = model(batch, 1.0, SINGLE_PART)
    total = sum(size for size, _ in kept.values())
    kept.clear()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    torch.stack(list(losses.values())).sum().backward()
    peak = torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else 0
    return total / images, 4.0 * (4 * trained + frozen), float(peak)


def random_batch(config: TrainConfig, images: int) -> Batch:
    """Return random images of the plan's canvas with objects and depth."""
    height, width = config.input.height_px, config.input.width_px
    rng = np.random.default_rng(0)
    objects = []
    for _ in range(images):
        center = rng.uniform([80, 60], [width - 80, height - 60], (OBJECTS, 2))
        objects.append(
            ImageObjects(
                class_id=rng.integers(0, len(config.classes), OBJECTS),
                score=np.ones(OBJECTS),
                center_px=center,
                depth_m=rng.uniform(5, 50, OBJECTS),
                size_hwl_m=rng.uniform(1, 4, (OBJECTS, 3)),
                alpha=rng.uniform(-np.pi, np.pi, OBJECTS),
                box_px=np.concatenate([center - 30, center + 30], 1),
                depth_log_sigma=np.zeros(OBJECTS),
            )
        )
    P = torch.eye(3, 4).repeat(images, 1, 1)
    P[:, 0, 0] = P[:, 1, 1] = 720.0
    P[:, 0, 2], P[:, 1, 2] = width / 2, height / 2
    image = torch.from_numpy(rng.integers(0, 255, (images, height, width, 3), dtype=np.uint8))
    depth_m = torch.from_numpy(rng.uniform(2, 60, (images, height, width)).astype(np.float32))
    return Batch(image, P, pad_targets(objects, 50), ('',) * images, depth_m)


if __name__ == '__main__':
    main()
