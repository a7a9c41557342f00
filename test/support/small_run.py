"""A training run small enough for tests: hand-drawn frames, a tiny mobile detector, the CPU."""

import dataclasses

import torch
from torch import nn

from stl_core.training import config, model_builder


def small_config(scenes, out, **changes):
    """Return the TrainConfig of a small run on the frames in `scenes`."""
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


class DropoutModel(nn.Module):
    """A supervised model with dropout in the depth head, so that training is random."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.detector = model.detector
        self.detector.heads['depth'].insert(2, nn.Dropout(0.3))

    def forward(self, batch, epoch, normalizer):
        return self.model(batch, epoch, normalizer)


def with_dropout(resolved):
    return DropoutModel(model_builder.build_model(resolved))


def weights_of(out, name='last.pt'):
    """Return the model's state dict in a checkpoint of the run in `out`."""
    return torch.load(out / name, weights_only=True)['model']


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
