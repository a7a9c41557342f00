"""
Measure the gradient of every distillation loss on the student, relative to the detection losses.

python bench/weights.py PLAN.yaml [key=value ...] [--stage distil] [--losses feature plain_scene]
[--batches 8] [--share 0.33] [--epoch 3] [--steps 60] [--device cpu]: measures at the start of a
distillation stage, on its training frames. First, what the vehicle does not run (layers between
student and teacher, heads of side branches, scorers) learns alone from all weighted losses, for
--steps steps, or for as many as in training. Prints the gradient norm
of each loss on the student's backbone as fraction of that of all detection losses together,
without and with the plan's weight, and the weight for which the fraction is --share.
--losses measures these losses instead of the plan's; those that the plan lacks have weight 1.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from stl_core.data import dataset
from stl_core.distill import LOSSES
from stl_core.distill.distiller import Distiller
from stl_core.inference.runtimes.torch_runner import choose_device
from stl_core.tensors.batch import Batch, to_device
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training import model_builder, stages
from stl_core.training.config import TrainConfig
from stl_core.training.resolved_config import ResolvedConfig, resolve_config


def main() -> None:
    """Print the table of gradients and weights."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('plan')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='overrides of the plan')
    parser.add_argument('--stage', default='distil')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    parser.add_argument('--batches', type=int, default=8)
    parser.add_argument(
        '--share', type=float, default=1 / 3, help="fraction of the detector's gradient"
    )
    parser.add_argument('--epoch', type=float, help='of losses whose weight rises; alone_epochs')
    parser.add_argument('--steps', type=int, help='of the layers alone; alone_epochs')
    parser.add_argument('--losses', nargs='+', choices=list(LOSSES), help="default: the plan's")
    args = parser.parse_args()
    plan = stages.load_stages(args.plan, tuple(args.overrides))
    (config,) = stages.select_stages(plan, (args.stage,)).values()
    config = with_losses(config, args.losses) if args.losses else config
    device = choose_device(args.device)
    resolved = resolve_config(config)
    torch.manual_seed(config.seed)
    model: Any = model_builder.build_model(resolved)
    model.to(device).train()
    batches = (to_device(batch, device) for batch in load_batches(resolved))
    pass_steps = len(dataset.list_frames(config.train)) // config.batch_size
    steps = int(model.alone_epochs * pass_steps) if args.steps is None else args.steps
    train_layers(model, islice(batches, steps), config.weights)
    rows = gradient_norms(model, list(islice(batches, args.batches)), config.weights, args.epoch)
    detector_norm = rows.pop('the detector')[1]
    print(f'{steps} steps of the layers alone, {args.batches} batches of {config.batch_size}')
    print(f"| loss | value | gradient / the detector's | weighted | weight for {args.share:.2f} |")
    print('|---|---|---|---|---|')
    for name, (value, norm) in rows.items():
        weight = f'{args.share * detector_norm / norm:.3g}' if norm else 'none'
        ratio = norm / detector_norm
        print(
            f'| {name} | {value:.4f} | {ratio:.4f} | {ratio * config.weights[name]:.2f} |'
            f' {weight} |'
        )


def with_losses(config: TrainConfig, names: list[str]) -> TrainConfig:
    """Return the run with these losses; losses that it has keep their options and weights."""
    if not config.distill:
        raise SystemExit('not a stage of distillation')
    losses = {n: config.distill.losses.get(n, LOSSES[n].config()) for n in names}
    distill = dataclasses.replace(config.distill, losses=losses)
    weights = {name: each for name, each in config.weights.items() if name.startswith('det/')}
    for key in (f'distill/{name}' for name in names):
        weights[key] = config.weights.get(key, 1.0)
    for name in names:
        for extra, weight in LOSSES[name].extra_losses.items():
            weights[f'distill/{name}_{extra}'] = weight
    return dataclasses.replace(config, distill=distill, weights=weights)


def load_batches(resolved: ResolvedConfig) -> Iterator[Batch]:
    """Yield the batches of a run's first epoch, repeated without end."""
    config = resolved.config
    data = dataclasses.replace(config.train, keep_images=False)
    frames = dataset.FrameDataset(
        *(data, config.input, config.classes, config.seed, resolved.image_loader),
        given=resolved.given_depth,
    )
    sampler = dataset.ShuffledBatchSampler(len(frames), config.batch_size, config.seed)
    loader = dataset.make_dataloader(frames, sampler, workers=0)
    while True:
        yield from loader


def train_layers(model: Distiller, batches: Iterator[Batch], weights: dict[str, float]) -> None:
    """Train all parameters that are neither the student's nor the teacher's."""
    networks = ('student.', 'teacher.')
    layers = [
        each
        for name, each in model.named_parameters()
        if each.requires_grad and not name.startswith(networks)
    ]
    if not layers:
        return
    optimizer = torch.optim.AdamW(layers, lr=2e-3)
    for batch in batches:
        named = model(batch, 0.0, SINGLE_PART)
        compared = [weights[n] * v for n, v in named.items() if n.startswith('distill/')]
        optimizer.zero_grad()
        grads = torch.autograd.grad(torch.stack(compared).sum(), layers, allow_unused=True)
        for each, grad in zip(layers, grads, strict=True):
            each.grad = grad
        optimizer.step()


def gradient_norms(
    model: Distiller, batches: list[Batch], weights: dict[str, float], epoch: float | None = None
) -> dict[str, tuple[float, float]]:
    """Return {name: (mean value, mean gradient norm on the backbone)}; epoch: alone_epochs."""
    backbone = model.get_submodule('student.backbone').parameters()
    trained = [each for each in backbone if each.requires_grad]
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for batch in batches:
        named = model(batch, model.alone_epochs if epoch is None else epoch, SINGLE_PART)
        detection = sum(weights[name] * v for name, v in named.items() if name.startswith('det/'))
        for name, value in {'the detector': detection, **named}.items():
            if not name.startswith('det/'):
                measured[name].append((value.item(), gradient_norm(value, trained)))
    return {
        name: (sum(v for v, _ in each) / len(each), sum(n for _, n in each) / len(each))
        for name, each in measured.items()
    }


def gradient_norm(value: Tensor, parameters: list[Tensor]) -> float:
    """Compute the L2 norm of the gradient of a value with respect to all parameters together."""
    each = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    squares = [g.square().sum() for g in each if g is not None]  # none from the loss of a scorer
    return torch.stack(squares).sum().sqrt().item() if squares else 0.0


if __name__ == '__main__':
    main()
