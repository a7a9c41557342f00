"""Checkpoint layout of 2gunsu/monocon-pytorch (MonoCon): DLA-34, DLAUp, attentive norms, heads."""

from __future__ import annotations

from stl_core.inference.converters import monodle
from stl_core.inference.converters.key_mapping import CheckpointLayout, KeyRule
from stl_core.inference.model_spec import ModelSpec
from stl_core.preprocessing import InputSpec

#: The program's names of the layers before a head's last one -> our names.
_STEM_LAYERS = {
    'heatmap_head': 'heatmap',
    'offset_head': 'offset_2d',
    'wh_head': 'size_2d',
    'depth_head': 'depth',
    'dim_head': 'size_3d',
    'dir_feat': 'heading',
    'center2kpt_offset_head': 'keypoints',
    'kpt_heatmap_head': 'keypoint_heatmap',
    'kpt_heatmap_offset_head': 'keypoint_rest',
}
#: The same for the last layers; those of size and keypoints also need reordered rows, see below.
_LAST_LAYERS = {
    r'heatmap_head\.3': 'heatmap.outputs.heatmap',
    r'offset_head\.3': 'offset_2d.outputs.offset_2d',
    r'wh_head\.3': 'size_2d.outputs.size_2d',
    r'depth_head\.3': 'depth.outputs.depth',
    r'dir_cls\.0': 'heading.outputs.heading_bin',
    r'dir_reg\.0': 'heading.outputs.heading_rest',
    r'kpt_heatmap_head\.3': 'keypoint_heatmap.outputs.keypoint_heatmap',
    r'kpt_heatmap_offset_head\.3': 'keypoint_rest.outputs.keypoint_rest',
}
_STEM_RULES = tuple(
    KeyRule(rf'head\.{old}\.{key}', rf'heads.{new}.stem.{stem_key}')
    for old, new in _STEM_LAYERS.items()
    for key, stem_key in (
        (r'0\.(weight|bias)', r'0.\1'),
        (r'1\.(weight|bias)_', r'1.\1'),
        (r'1\.(running_mean|running_var|num_batches_tracked)', r'1.norm.\1'),
        (r'1\.attn_weights\.attention\.0\.(weight)', r'1.attention.\1'),
        (r'1\.attn_weights\.attention\.1\.(.+)', r'1.attention_norm.\1'),
    )
)

LAYOUT = CheckpointLayout(
    program='2gunsu/monocon-pytorch at 908807b',
    spec=ModelSpec(
        classes=('Pedestrian', 'Cyclist', 'Car'),
        # the program pads KITTI's images (1242 x 375 and similar) instead of resizing them
        input=InputSpec(1248, 384),
        detector='monocon',
        options={
            'backbone': 'dla34',
            'neck': 'dlaup',
            'head_width': 64,
            'virtual_focal_px': 721.5,  # trained in metres with KITTI's focal length
        },
    ),
    rules=(
        monodle.BACKBONE_RULE,
        *monodle.NECK_RULES,
        *_STEM_RULES,
        *(KeyRule(rf'head\.{old}\.(.+)', rf'heads.{new}.\1') for old, new in _LAST_LAYERS.items()),
        # the program's order is length, height, width
        KeyRule(r'head\.dim_head\.3\.(.+)', r'heads.size_3d.outputs.size_3d.\1', (1, 2, 0)),
        # x and y of the eight corners, then of the projected centre
        KeyRule(
            r'head\.center2kpt_offset_head\.3\.(.+)',
            r'heads.keypoints.outputs.keypoint_offset.\1',
            tuple(range(16)),
        ),
        KeyRule(
            r'head\.center2kpt_offset_head\.3\.(.+)',
            r'heads.keypoints.outputs.offset_3d.\1',
            (16, 17),
        ),
    ),
    ignored=monodle.UNUSED_KEYS,
)
