"""Checkpoints of ZrrSkywalker/MonoDETR: keys of ResNet-50, depth predictor and transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stl_core.inference.converters.key_mapping import Layout, Move
from stl_core.inference.model_file import StudentSpec
from stl_core.preprocessing import InputSpec


def _moves(before: str, ours: str, names: Mapping[str, str]) -> tuple[Move, ...]:
    """Move the tensors of modules: a pattern of their place, our place, {their name: our name}."""
    return tuple(
        Move(rf'{before}{re.escape(old)}\.(?P<leaf>\w+)', rf'{ours}{new}.\g<leaf>')
        for old, new in names.items()
    )


def _deformable(old: str, new: str) -> dict[str, str]:
    """Name the four layers of a deformable attention."""
    return {
        f'{old}.sampling_offsets': f'{new}.offsets',
        f'{old}.attention_weights': f'{new}.weights',
        f'{old}.value_proj': f'{new}.value',
        f'{old}.output_proj': f'{new}.out',
    }


def _attention(old: str, new: str) -> dict[str, str]:
    """Name the two parts of torch's attention."""
    return {old: new, f'{old}.out_proj': f'{new}.out_proj'}


def _head(old: str, new: str, layers: int) -> tuple[Move, ...]:
    """Move a head of every decoder layer: linear layers, between which ours counts the ReLUs."""
    names = {f'layers.{i}': str(2 * i) for i in range(layers)}
    return _moves(rf'{old}\.(\d+)\.', rf'heads.{new}.\1.', names)


_FEED = {'linear1': 'feed.wide', 'linear2': 'feed.narrow'}
_ENCODER = {'norm1': 'after.norm', 'norm2': 'feed.after.norm', **_FEED}
_DECODER = {
    **_attention('cross_attn_depth', 'to_depth'),
    'norm_depth': 'after_depth.norm',
    'sa_qcontent_proj': 'asking.0',
    'sa_qpos_proj': 'asking.1',
    'sa_kcontent_proj': 'offering.0',
    'sa_kpos_proj': 'offering.1',
    **_attention('self_attn', 'to_queries'),
    'norm2': 'after_queries.norm',
    **_deformable('cross_attn', 'to_picture'),
    'norm1': 'after_picture.norm',
    **_FEED,
    'norm3': 'feed.after.norm',
}
_DEPTH_MAP = {
    **{f'downsample.{i}': f'down.{i}' for i in range(2)},
    **{f'proj.{i}': f'keep.{i}' for i in range(2)},
    **{f'upsample.{i}': f'up.{i}' for i in range(2)},
    **{f'depth_head.{i}': f'body.0.{i}' for i in range(2)},
    **{f'depth_head.{i + 3}': f'body.2.{i}' for i in range(2)},
    'depth_classifier': 'bins',
}

LAYOUT = Layout(
    program='ZrrSkywalker/MonoDETR at 6994b9f',
    spec=StudentSpec(
        classes=('Pedestrian', 'Car', 'Cyclist'),
        input=InputSpec(1280, 384),
        detector='monodetr',
        # metres were learnt through KITTI's lens, 721.5 px, at 1280 px for its 1242
        options={'virtual_focal_px': 743.6},
    ),
    moves=(
        Move(r'backbone\.0\.body\.(.+)', r'backbone.body.\1'),
        Move(r'input_proj\.(.+)', r'project.\1'),
        Move(r'query_embed\.weight', r'queries.weight'),
        Move(r'depthaware_transformer\.level_embed', r'visual_encoder.levels'),
        *_moves(
            r'depthaware_transformer\.encoder\.layers\.(\d+)\.',
            r'visual_encoder.layers.\1.',
            {**_deformable('self_attn', 'attention'), **_ENCODER},
        ),
        *_moves(
            r'depthaware_transformer\.decoder\.layers\.(\d+)\.', r'decoder.layers.\1.', _DECODER
        ),
        *_moves(r'depthaware_transformer\.', 'decoder.', {'reference_points': 'start'}),
        *_moves(r'depth_predictor\.', 'depth_map.', _DEPTH_MAP),
        *_moves(
            r'depth_predictor\.depth_encoder\.layers\.0\.',
            'depth_encoder.',
            {**_attention('self_attn', 'attention'), **_ENCODER},
        ),
        *_moves(r'depth_predictor\.', 'depth_encoder.', {'depth_pos_embed': 'metres'}),
        *_moves(r'class_embed\.', 'heads.class.', {str(i): str(i) for i in range(3)}),
        *_head('bbox_embed', 'box', 3),
        *_head('dim_embed_3d', 'size_3d', 2),
        *_head('angle_embed', 'heading', 2),
        *_head('depth_embed', 'depth', 2),
    ),
    drops={
        r'depthaware_transformer\.decoder\.(bbox|dim)_embed\..+': 'the heads under a second name',
        r'depthaware_transformer\.decoder\.(query_scale|ref_point_head)\..+': 'used by DAB only',
        r'depthaware_transformer\.decoder\.layers\.\d+\.sa_v_proj\..+': 'its result is not used',
        r'label_enc\.weight': 'used by denoising only',
        r'depth_predictor\.depth_bin_values': 'a constant, computed here',
    },
)
