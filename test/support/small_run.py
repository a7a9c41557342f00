"""A run small enough for tests: five hand-drawn frames, a tiny mobile detector, the CPU."""

import dataclasses

import torch
from torch import nn

from stl_core.training import config, model_builder


def small_config(scenes, out, **changes):
    data = {
        'sources': [{k: str(scenes / k) for k in ('image_2', 'calib', 'label_2')}],
        'augment': {'flip': 0.5, 'colour': 0.3},
    }
    options = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
    built = config.build_train_config(
        {
            'out': str(out),
            'detector': {'options': options},
            'input': {'width_px': 160, 'height_px': 64},
            'train': data,
            'val': data,
            'epochs': 4,
            'batch_size': 2,
            'workers': 0,
            'eval_every': 0,
            'device': 'cpu',
        }
    )
    return dataclasses.replace(built, **changes)


class Dropping(nn.Module):
    """A learner with chance inside: dropout on the losses' way back."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain
        self.detector = plain.detector
        self.detector.heads['depth'].insert(2, nn.Dropout(0.3))

    def forward(self, batch, epoch):
        return self.plain(batch, epoch)


def dropping(built):
    return Dropping(model_builder.build_model(built))


def weights_of(out, name='last.pt'):
    return torch.load(out / name, weights_only=True)['model']


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
