"""
A toy detector in one file: two convolutions, and a cell of a stride-8 map for every object.

It learns depth in true metres, so it has no option virtual_focal_px, and it has no pretrained
backbone. Register it by `DETECTORS['toy'] = toy_detector.ENTRY`.
Shapes: B batch, N slots, K peaks, C classes, h w grid.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stl_core.inference import model_file
from stl_core.inference.model_spec import ModelSpec
from stl_core.models import DetectorEntry, losses
from stl_core.models.centernet import heatmap
from stl_core.preprocessing import InputSpec
from stl_core.tensors import depth_encoding
from stl_core.tensors.detector import Outputs, TargetPredictions
from stl_core.tensors.feature_level import backbone_levels
from stl_core.tensors.reductions import masked_mean

STRIDE = 8


@dataclass(frozen=True)
class ToyConfig:
    """
    Configuration of the toy detector.

    :param width: channels of its feature map.
    :param max_objects: K.
    """

    width: int = 8
    max_objects: int = 5


@dataclass(frozen=True)
class ToyHeads:
    """
    Raw head maps.

    :param presence: (B, C, h, w) logits of objects.
    :param depth: (B, 2, h, w) logit of inverse depth, log sigma (metres).
    :param shape: (B, 11, h, w) centre x y and box x0 y0 x1 y1 relative to the cell, in cells;
        height, width, length in metres; sine and cosine of alpha.
    """

    presence: Tensor
    depth: Tensor
    shape: Tensor

    def as_dict(self):
        return dict(vars(self))


class ToyDetector(nn.Module):
    def __init__(self, config, in_channels, num_classes):
        super().__init__()
        if config.width < 1:
            raise ValueError(f'width {config.width}: expected at least 1')
        self.config = config
        self.levels = backbone_levels((config.width,), (STRIDE,))
        self.body = nn.Conv2d(in_channels, config.width, 9, STRIDE, padding=4)
        self.heads = nn.ModuleDict(
            {
                name: nn.Conv2d(config.width, n, 3, padding=1)
                for name, n in {'presence': num_classes, 'depth': 2, 'shape': 11}.items()
            }
        )

    def forward(self, inputs, targets=None):
        features = self.body(inputs.image).relu()
        heads = ToyHeads(**{name: head(features) for name, head in self.heads.items()})
        return Outputs((features,), heads, inputs.size_px)

    def losses(self, outputs, targets, normalizer):
        cell, inside = target_cells(outputs, targets)
        valid, (h, w) = targets.valid & inside, outputs.heads.presence.shape[-2:]
        points = (targets.center_px / STRIDE)[:, :, None].expand(
            -1, -1, outputs.heads.presence.shape[1], -1
        )
        classes = heatmap.class_masks(targets, outputs.heads.presence.shape[1])
        presence = heatmap.draw_gaussians(points, torch.zeros_like(targets.depth_m), classes, h, w)
        depth, shape = (heatmap.gather_at(each, cell) for each in regressions(outputs))
        wanted = encode(targets, heatmap.cell_xy(cell, w))
        return {
            'det/presence': losses.heatmap_focal_loss(
                outputs.heads.presence, presence, normalizer
            ),
            'det/depth': losses.laplacian_nll_loss(
                depth_encoding.from_logit(depth[..., 0]),
                depth[..., 1],
                targets.depth_m,
                valid,
                normalizer,
            ),
            'det/shape': masked_mean(
                F.smooth_l1_loss(shape, wanted, reduction='none'), valid, normalizer
            ),
        }

    def decode(self, outputs):
        presence = outputs.heads.presence
        score, class_id, cell = heatmap.find_peaks(presence.sigmoid(), self.config.max_objects)
        depth, shape = (heatmap.gather_at(each, cell) for each in regressions(outputs))
        origin = heatmap.cell_xy(cell, presence.shape[-1])
        return {
            'class_id': class_id,
            'score': score,
            'center_px': (origin + shape[..., :2]) * STRIDE,
            'depth_m': depth_encoding.from_logit(depth[..., 0]),
            'size_hwl_m': shape[..., 6:9].clamp(min=0.1),
            'alpha': torch.atan2(shape[..., 9], shape[..., 10]),
            'box_px': (origin.repeat(1, 1, 2) + shape[..., 2:6]) * STRIDE,
            'depth_log_sigma': depth[..., 1],
        }

    def predictions_at_targets(self, outputs, targets):
        cell, inside = target_cells(outputs, targets)
        depth, shape = (heatmap.gather_at(each, cell) for each in regressions(outputs))
        return TargetPredictions(
            predictions={'depth': depth[..., :1], 'shape': shape},
            depth_sigma_m=depth[..., 1].exp(),
            found=targets.valid & inside,
        )


def target_cells(outputs, targets):
    """Return the flat cells (B, N) of the projected centres, and whether they are on the grid."""
    return heatmap.flat_cells(targets.center_px, STRIDE, *outputs.heads.presence.shape[-2:])


def regressions(outputs):
    return outputs.heads.depth, outputs.heads.shape


def encode(targets, origin):
    """Return the values (B, N, 11) that the head `shape` learns for cells at origin (B, N, 2)."""
    return torch.cat(
        [
            targets.center_px / STRIDE - origin,
            targets.box_px / STRIDE - origin.repeat(1, 1, 2),
            targets.size_hwl_m,
            torch.stack([targets.alpha.sin(), targets.alpha.cos()], -1),
        ],
        -1,
    )


LOSS_WEIGHTS = {'det/presence': 1.0, 'det/depth': 0.1, 'det/shape': 1.0}
ENTRY = DetectorEntry(ToyDetector, ToyConfig, LOSS_WEIGHTS)


def save_untrained(path):
    """Write a model file with initial weights and return its path; the toy must be registered."""
    torch.manual_seed(0)
    spec = ModelSpec(('Car', 'Pedestrian', 'Cyclist'), InputSpec(160, 64), 'toy')
    model_file.save_model(path, model_file.build_detector(spec), spec)
    return path
