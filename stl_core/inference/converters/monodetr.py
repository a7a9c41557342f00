"""Checkpoint layout of ZrrSkywalker/MonoDETR: ResNet-50, depth predictor and transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stl_core.inference.converters.key_mapping import CheckpointLayout, KeyRule
from stl_core.inference.model_spec import ModelSpec
from stl_core.preprocessing import InputSpec


def _key_rules(old_prefix: str, new_prefix: str, names: Mapping[str, str]) -> tuple[KeyRule, ...]:
    r"""
    Build rules that rename modules and keep the names of their tensors.

    :param old_prefix: pattern of the program's prefix, with groups.
    :param new_prefix: our prefix; '\1' and so on stand for the groups.
    :param names: {the program's module name: our module name}.
    """
    return tuple(
        KeyRule(rf'{old_prefix}{re.escape(old)}\.(?P<leaf>\w+)', rf'{new_prefix}{new}.\g<leaf>')
        for old, new in names.items()
    )


def _deformable_attention_names(old: str, new: str) -> dict[str, str]:
    """Return {old name: new name} of the four layers of deformable attention."""
    return {
        f'{old}.sampling_offsets': f'{new}.offsets',
        f'{old}.attention_weights': f'{new}.weights',
        f'{old}.value_proj': f'{new}.value',
        f'{old}.output_proj': f'{new}.out',
    }


def _attention_names(old: str, new: str) -> dict[str, str]:
    """Return {old name: new name} of the two parts of torch's MultiheadAttention."""
    return {old: new, f'{old}.out_proj': f'{new}.out_proj'}


def _head_rules(old: str, new: str, num_layers: int) -> tuple[KeyRule, ...]:
    """Build rules for one head of every decoder layer; ReLUs count as layers in our heads."""
    names = {f'layers.{i}': str(2 * i) for i in range(num_layers)}
    return _key_rules(rf'{old}\.(\d+)\.', rf'heads.{new}.\1.', names)


_FEED_FORWARD_NAMES = {'linear1': 'feed.wide', 'linear2': 'feed.narrow'}
_ENCODER_NAMES = {'norm1': 'after.norm', 'norm2': 'feed.after.norm', **_FEED_FORWARD_NAMES}
_DECODER_NAMES = {
    **_attention_names('cross_attn_depth', 'to_depth'),
    'norm_depth': 'after_depth.norm',
    'sa_qcontent_proj': 'asking.0',
    'sa_qpos_proj': 'asking.1',
    'sa_kcontent_proj': 'offering.0',
    'sa_kpos_proj': 'offering.1',
    **_attention_names('self_attn', 'to_queries'),
    'norm2': 'after_queries.norm',
    **_deformable_attention_names('cross_attn', 'to_picture'),
    'norm1': 'after_picture.norm',
    **_FEED_FORWARD_NAMES,
    'norm3': 'feed.after.norm',
}
_DEPTH_PREDICTOR_NAMES = {
    **{f'downsample.{i}': f'down.{i}' for i in range(2)},
    **{f'proj.{i}': f'keep.{i}' for i in range(2)},
    **{f'upsample.{i}': f'up.{i}' for i in range(2)},
    **{f'depth_head.{i}': f'body.0.{i}' for i in range(2)},
    **{f'depth_head.{i + 3}': f'body.2.{i}' for i in range(2)},
    'depth_classifier': 'bins',
}

LAYOUT = CheckpointLayout(
    program='ZrrSkywalker/MonoDETR at 6994b9f',
    spec=ModelSpec(
        classes=('Pedestrian', 'Car', 'Cyclist'),
        input=InputSpec(1280, 384),
        detector='monodetr',
        # trained in metres with KITTI's focal length, 721.5 px at width 1242, scaled to 1280
        options={'virtual_focal_px': 743.6},
    ),
    rules=(
        KeyRule(r'backbone\.0\.body\.(.+)', r'backbone.body.\1'),
        KeyRule(r'input_proj\.(.+)', r'project.\1'),
        KeyRule(r'query_embed\.weight', r'queries.weight'),
        KeyRule(r'depthaware_transformer\.level_embed', r'visual_encoder.levels'),
        *_key_rules(
            r'depthaware_transformer\.encoder\.layers\.(\d+)\.',
            r'visual_encoder.layers.\1.',
            {**_deformable_attention_names('self_attn', 'attention'), **_ENCODER_NAMES},
        ),
        *_key_rules(
            r'depthaware_transformer\.decoder\.layers\.(\d+)\.',
            r'decoder.layers.\1.',
            _DECODER_NAMES,
        ),
        *_key_rules(r'depthaware_transformer\.', 'decoder.', {'reference_points': 'start'}),
        *_key_rules(r'depth_predictor\.', 'depth_map.', _DEPTH_PREDICTOR_NAMES),
        *_key_rules(
            r'depth_predictor\.depth_encoder\.layers\.0\.',
            'depth_encoder.',
            {**_attention_names('self_attn', 'attention'), **_ENCODER_NAMES},
        ),
        *_key_rules(r'depth_predictor\.', 'depth_encoder.', {'depth_pos_embed': 'metres'}),
        *_key_rules(r'class_embed\.', 'heads.class.', {str(i): str(i) for i in range(3)}),
        *_head_rules('bbox_embed', 'box', 3),
        *_head_rules('dim_embed_3d', 'size_3d', 2),
        *_head_rules('angle_embed', 'heading', 2),
        *_head_rules('depth_embed', 'depth', 2),
    ),
    ignored={
        r'depthaware_transformer\.decoder\.(bbox|dim)_embed\..+': 'the heads under a second name',
        r'depthaware_transformer\.decoder\.(query_scale|ref_point_head)\..+': 'used by DAB only',
        r'depthaware_transformer\.decoder\.layers\.\d+\.sa_v_proj\..+': 'its result is not used',
        r'label_enc\.weight': 'used by denoising only',
        r'depth_predictor\.depth_bin_values': 'a constant, computed here',
    },
)
