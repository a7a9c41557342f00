"""Checkpoint layout of xinzhuma/monodle (MonoDLE): DLA-34, DLAUp and seven heads."""

from __future__ import annotations

from stl_core.inference.converters.key_mapping import CheckpointLayout, KeyRule
from stl_core.inference.model_spec import ModelSpec
from stl_core.preprocessing import InputSpec

#: Rules for backbone and neck, which other programs share.
BACKBONE_RULE = KeyRule(r'backbone\.(.+)', r'backbone.body.\1')
NECK_RULES = tuple(
    KeyRule(
        rf'neck\.ida_{stage}\.{old}_{merge + 1}\.{tail}', rf'neck.stages.{stage}.{merge}.{new}'
    )
    for stage in range(3)
    for merge in range(stage + 1)
    for old, tail, new in (
        ('proj', r'conv\.(.+)', r'project.0.\1'),
        ('proj', r'bn1?\.(.+)', r'project.1.\1'),
        ('up', r'(weight)', r'up.\1'),
        ('node', r'conv\.(.+)', r'node.0.\1'),
        ('node', r'bn1?\.(.+)', r'node.1.\1'),
    )
)
HEAD_RULE = KeyRule(
    r'(heatmap|offset_2d|size_2d|depth|offset_3d|size_3d|heading)\.(.+)', r'heads.\1.\2'
)
#: Layers of DLA-34 that no forward pass of these programs uses.
UNUSED_KEYS = {
    r'backbone\.fc\..+': 'the ImageNet classifier, never called',
    r'backbone\.level[34]\.project\..+': 'a projection whose result is not used',
}

LAYOUT = CheckpointLayout(
    program='xinzhuma/monodle at e426aa6',
    spec=ModelSpec(
        classes=('Pedestrian', 'Car', 'Cyclist'),
        input=InputSpec(1280, 384),
        detector='monodle',
        options={
            'backbone': 'dla34',
            'neck': 'dlaup',
            'head_width': 256,
            # trained in metres with KITTI's focal length, 721.5 px at width 1242, scaled to 1280
            'virtual_focal_px': 743.6,
            # heads predict sizes, not offsets from a mean size (meanshape: False)
            'mean_size_hwl_m': ((0.0, 0.0, 0.0),) * 3,
        },
    ),
    rules=(BACKBONE_RULE, *NECK_RULES, HEAD_RULE),
    ignored=UNUSED_KEYS,
)
