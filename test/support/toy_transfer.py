"""
A toy distillation loss that owns weights, in one file: a projection, and a scorer in a group.

Register it by `LOSSES['toy_transfer'] = toy_transfer.ENTRY`.
"""

import os
import signal
from dataclasses import dataclass

import torch
from run_folder_processes import act_before_step
from torch import nn
from torch.nn.functional import conv2d, softplus

from stl_core.cli import main
from stl_core.distill import LOSSES, LossEntry
from stl_core.distill.transfer import Transfer
from stl_core.tensors.optim_group import OptimGroupConfig
from stl_core.tensors.reductions import masked_mean
from stl_core.training import distributed

NAME = 'toy_transfer'


@dataclass(frozen=True)
class ToyTransferConfig:
    """
    Configuration of the toy loss.

    :param lr: learning rate of the scorer.
    """

    lr: float = 2e-3


class ToyTransfer(Transfer):
    """L1 of the projected first level, and a scorer that separates it from the teacher's."""

    def __init__(self, config, student, teacher):
        super().__init__()
        self.level = student.levels[0].name
        channels = student.levels[0].channels
        self.projection = nn.Conv2d(channels, channels, 1)
        self.scorer = nn.Conv2d(channels, 1, 1)
        self.register_buffer('steps', torch.zeros(()))
        self.optimizer_groups = {'scorer': OptimGroupConfig(config.lr, (0.5, 0.999), 0.5)}

    def forward(self, view, normalizer):
        student, teacher = (
            each.levels[self.level].map.float() for each in (view.student, view.teacher)
        )
        everywhere = torch.ones_like(student[:, :1], dtype=torch.bool)
        projected = self.projection(student)
        fake, real = self.scorer(projected.detach()), self.scorer(teacher)
        weights = (each.detach() for each in self.scorer.parameters())
        right = torch.cat([fake < 0, real > 0], 1).float().mean(1, keepdim=True)
        self.right = masked_mean(right, everywhere, normalizer)
        if self.training:
            self.steps += 1
        imitation = (projected - teacher).abs().mean(1, keepdim=True)
        fooled = softplus(-conv2d(projected, *weights))
        return {
            '': masked_mean(imitation + 0.1 * fooled, everywhere, normalizer),
            'scorer': masked_mean(softplus(fake) + softplus(-real), everywhere, normalizer),
        }

    def step_metrics(self):
        return {'right': self.right}


ENTRY = LossEntry(
    None,
    ToyTransferConfig,
    compares_features=False,
    build=ToyTransfer,
    extra_losses={'scorer': 1.0},
)


def distil(plan, out):
    """Train the stage distil of a plan into a folder, by the command."""
    LOSSES[NAME] = ENTRY
    main.main(['train', str(plan), '--stage', 'distil', f'stages.distil.out={out}'])


def distil_until_killed(plan, out, number):
    """As distil; SIGKILL ends this process before a step."""
    torch.set_num_threads(1)
    act_before_step(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    distil(plan, out)


def distil_in_rank(rank, plan, out):
    with distributed.process_group('cpu'):
        distil(plan, out)
