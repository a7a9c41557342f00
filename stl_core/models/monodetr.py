"""
MonoDETR detector (Zhang et al., ICCV 2023): depth-guided DETR, one query per object.

Backbone maps at strides 8, 16, 32, and one at 64, are projected to one width. A depth predictor
turns three of them into a depth map at stride 16. Queries attend to image and depth, and predict a
class, a box, a size, a heading and a depth after every decoder layer. The depth is the mean of
three estimates: the query's regression, f h / h_px from the heights of 3D and 2D box, and the
depth map at the projected centre.
Shapes: B batch, L decoder layers, Q queries, N slots, K objects decoded, C classes, A heading
bins, D depth bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stl_core.models.backbone import STRIDES, Backbone
from stl_core.models.centernet import heatmap
from stl_core.models.depth_association import require_given_depth
from stl_core.models.detr import box_coding, criterion, depth_predictor
from stl_core.models.detr.assignment import assign_targets, find_assignment
from stl_core.models.detr.query_heads import (
    MonoDETRHeads,
    QueryHeads,
    build_query_heads,
    gather_queries,
)
from stl_core.models.detr.transformer import (
    Decoder,
    DepthEncoder,
    EncoderMemory,
    TransformerDims,
    VisualEncoder,
)
from stl_core.models.published_protocol import protocol_by_height
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import NetworkInput, Targets
from stl_core.tensors.detector import Outputs, TargetPredictions
from stl_core.tensors.feature_level import ImagePlane, LevelSpec, backbone_levels
from stl_core.tensors.precision import in_float32
from stl_core.tensors.reductions import StepNormalizer

#: Loss weights of the paper; each loss is a sum over decoder layers with equal weights.
LOSS_WEIGHTS = {
    'det/class': 2.0,
    'det/center': 10.0,
    'det/box': 5.0,
    'det/giou': 2.0,
    'det/depth': 1.0,
    'det/size_3d': 1.0,
    'det/heading': 1.0,
    'det/depth_map': 1.0,
}

#: Threshold of its tester.
PUBLISHED = protocol_by_height(0.2, 'ZrrSkywalker/MonoDETR')


@dataclass(frozen=True)
class MonoDETRConfig:
    """
    Configuration of a MonoDETR detector.

    :param backbone: a timm model; the paper's is ResNet-50 with torchvision's weights.
    :param pretrained: start the backbone from timm's ImageNet weights.
    :param freeze_beginning: freeze the backbone's norms and its stages up to stride 4, as in the
        paper, unless the input has another number of channels than RGB: weights trained on colours
        must adapt to it. None (as a rule: do not write the key) is the value of `pretrained`; the
        instance holds the resulting bool. A start model that replaces the ImageNet weights does
        not change it, so that a stage that starts from another trains the same parameters.
    :param width: channels of tokens, a multiple of 32 and of attention_heads.
    :param attention_heads: heads of every attention.
    :param points: sampling points per head and map of deformable attentions.
    :param feedforward: hidden width of the transformer's feed-forward blocks.
    :param encoder_layers: layers of the visual encoder.
    :param decoder_layers: L.
    :param dropout: fraction of values dropped in the transformer in training.
    :param checkpoint_activations: keep the activations of the transformer's layers for the
        gradient only at their borders and compute the rest again: less memory, more time, the
        same gradient.
    :param queries: Q, the maximum number of objects in an image.
    :param groups: G, groups of queries in training; inference uses only the first.
    :param heading_bins: A, bins of the observation angle.
    :param depth_bins: D.
    :param max_depth_m: far edge of the last depth bin.
    :param max_objects: K, maximum number of objects decoded from an image.
    :param virtual_focal_px: focal length at which depth is learnt, network pixels: all three
        depth estimates are the depth at which a lens of this focal length would show the object
        at the same size, and forward multiplies them by true / virtual focal length. One
        checkpoint then serves every lens. 0 learns depth directly, as in the paper, for a single
        lens.
    :param given_depth_in_output: of a privileged teacher: whether given depth also is the third of
        the output depth that the depth map contributes; False leaves the predicted map there, so
        that given depth acts through tokens alone. None, the default, is True.
    """

    backbone: str = 'resnet50.tv_in1k'
    pretrained: bool = False
    freeze_beginning: bool | None = None
    width: int = 256
    attention_heads: int = 8
    points: int = 4
    feedforward: int = 256
    encoder_layers: int = 3
    decoder_layers: int = 3
    dropout: float = 0.1
    checkpoint_activations: bool = False
    queries: int = 50
    groups: int = 11
    heading_bins: int = 12
    depth_bins: int = 80
    max_depth_m: float = 60.0
    max_objects: int = 50
    virtual_focal_px: float = 720.0
    given_depth_in_output: bool | None = None

    def __post_init__(self) -> None:
        """Resolve freeze_beginning while `pretrained` is still what the configuration says."""
        if self.freeze_beginning is None:
            object.__setattr__(self, 'freeze_beginning', self.pretrained)


class MonoDETR(nn.Module):
    """
    MonoDETR: depth-guided transformer for monocular 3D detection (Zhang et al., ICCV 2023).

    Architecture (the paper's section 3): a timm backbone (ResNet-50 in the paper), a depth
    predictor, a visual encoder (deformable self-attention), a depth encoder, and a decoder with
    depth cross-attention, self-attention within query groups (Group DETR) and image
    cross-attention; it refines boxes layer by layer.

    Heads, raw, (B, L, queries, channels), after every decoder layer: class C logits, box 6 logits
    (projected 3D centre and distances to the 2D box's sides, see detr/box_coding.py), size_3d 3
    (metres), heading 2A (bins, residuals), depth 2 (mean of three estimates in metres, log sigma).
    Also depth_map (B, D + 1, H/16, W/16), logits with the background last, and depth_edges_m
    (B, D + 1), the near edges of the depth bins of each image.

    Losses, after Hungarian matching per group and layer: focal loss of class; L1 of centre and box
    sides; generalised IoU; Laplacian NLL of depth; dimension-aware L1 of size; MultiBin of
    heading; focal loss of the depth map.

    A privileged teacher has the same weights; given depth replaces the expected depth in its cells
    (our choice: metres, since the near edge of a one-hot bin errs by up to 1.2 m at 40 m).
    """

    def __init__(
        self, config: MonoDETRConfig, in_channels: int, num_classes: int, given_depth: bool = False
    ) -> None:
        """
        Build backbone, depth map, transformer and heads.

        :param config: configuration.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :param given_depth: whether it is a privileged teacher, which is given depth.
        :raises ValueError: for an unknown backbone, or a width that is no multiple of 32 and of
            attention_heads.
        """
        super().__init__()
        if config.width % 32 or config.width % config.attention_heads:
            raise ValueError(
                f'width {config.width}: expected a multiple of 32 and of attention_heads '
                f'({config.attention_heads})'
            )
        self.config, self.given_depth = config, given_depth
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        channels, plane = self.backbone.channels[1:], ImagePlane(depth_predictor.STRIDE)
        tokens = LevelSpec('depth_tokens', config.width, plane, after_given_depth=True)
        self.levels = (*backbone_levels(channels, STRIDES[1:]), tokens)
        self.token_channels = config.width
        self.frozen_norms = bool(config.freeze_beginning) and in_channels == 3
        if self.frozen_norms:
            self.backbone.freeze_early_stages()
        width = config.width
        self.project = nn.ModuleList(_build_projection(each, width, 1) for each in channels)
        self.project.append(_build_projection(channels[-1], width, 2))
        self.depth_map = depth_predictor.DepthPredictor(
            width, config.depth_bins, config.max_depth_m
        )
        dims = TransformerDims(
            width,
            config.attention_heads,
            config.points,
            config.feedforward,
            config.dropout,
            config.checkpoint_activations,
        )
        self.visual_encoder = VisualEncoder(dims, config.encoder_layers)
        self.depth_encoder = DepthEncoder(dims, config.max_depth_m)
        self.decoder = Decoder(dims, config.decoder_layers)
        self.queries = nn.Embedding(config.groups * config.queries, 2 * width)
        self.heads = build_query_heads(
            width, config.decoder_layers, config.heading_bins, num_classes
        )

    def train(self, mode: bool = True) -> MonoDETR:
        """Switch to training; a backbone with frozen norms stays in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen_norms)
        return self

    def forward(
        self, inputs: NetworkInput, targets: Targets | None = None
    ) -> Outputs[MonoDETRHeads]:
        """
        Run the network.

        :param inputs: images with in_channels channels, and projections, whose focal lengths
            turn size into depth.
        :param targets: given by training: they are matched once, here, and losses and
            predictions_at_targets of the same targets use this assignment. The public code's
            query denoising, which also needs targets, is off by default.
        :return: features, the backbone's maps at strides 8, 16, 32 and the depth encoder's tokens;
            raw heads, of all query groups in training mode, else of the first group; and the
            assignment.
        :raises ValueError: in a privileged teacher for inputs without given depth.
        """
        features = self.backbone(inputs.image)[1:]
        sources = (*features, features[-1])
        maps = tuple(layer(each) for layer, each in zip(self.project, sources, strict=True))
        logits, depth_m, depth_features = self.depth_map(maps[:3])
        focal, virtual = inputs.P[:, 0, 0], self.config.virtual_focal_px
        trained_focal_px = torch.full_like(focal, virtual) if virtual else focal
        focal_ratio = focal / trained_focal_px
        token_depth_m, output_depth_m = self._insert_given_depth(depth_m, inputs, focal_ratio)
        depth_tokens = self.depth_encoder(depth_features, token_depth_m)
        memory = EncoderMemory(depth_tokens, *self.visual_encoder(maps))
        groups = self.config.groups if self.training else 1
        queries = self.queries.weight[: groups * self.config.queries]
        hidden, box = self.decoder(queries, groups, memory, self.heads['box'])
        regressed = self._run_heads(hidden, box)
        heads = MonoDETRHeads(
            class_logits=regressed.class_logits,
            box=box,
            size_3d=regressed.size_3d,
            heading=regressed.heading,
            depth=depth_predictor.mean_depth(
                regressed, output_depth_m, trained_focal_px, focal_ratio
            ),
            depth_map=logits,
            depth_edges_m=self.depth_map.edges_m * focal_ratio[:, None],
            hidden=hidden[:, -1, : self.config.queries],
        )
        size_px = inputs.size_px
        assignment = None
        if targets is not None:
            assignment = assign_targets(heads.queries(), targets, size_px, groups)
        token_map = depth_tokens.transpose(1, 2).unflatten(2, depth_m.shape[1:])
        return Outputs((*features, token_map), heads, size_px, assignment=assignment)

    def _insert_given_depth(
        self, depth_m: Tensor, inputs: NetworkInput, focal_ratio: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the depth (B, h, w) that the depth tokens and that the output depth read."""
        if not self.given_depth:
            return depth_m, depth_m
        given_m = require_given_depth(inputs)
        with_given_m = depth_predictor.insert_given_depth(depth_m, given_m, focal_ratio)
        in_output = self.config.given_depth_in_output is not False
        return with_given_m, with_given_m if in_output else depth_m

    def _run_heads(self, hidden: Tensor, box: Tensor) -> QueryHeads:
        """Return the heads of decoded queries (B, L, Q, width) and their box logits."""

        def run(name: str) -> Tensor:
            layers = enumerate(self.heads[name].children())
            return torch.stack([in_float32(head, hidden[:, i]) for i, head in layers], 1)

        return QueryHeads(
            class_logits=run('class'),
            box=box,
            size_3d=run('size_3d'),
            heading=run('heading'),
            depth=run('depth'),
        )

    def losses(
        self, outputs: Outputs[MonoDETRHeads], targets: Targets, normalizer: StepNormalizer
    ) -> dict[str, Tensor]:
        """
        Compute the training losses.

        :param outputs: from forward.
        :param targets: network pixels, metres; targets whose projected centre is off the canvas or
            outside their 2D box are ignored.
        :param normalizer: normaliser of the step.
        :return: unweighted scalars, summed over decoder layers, keys 'det/...'.
        """
        groups = outputs.heads.class_logits.shape[2] // self.config.queries
        heads = outputs.heads.queries()
        assignment = find_assignment(outputs, targets)
        if assignment is None:
            assignment = assign_targets(heads, targets, outputs.size_px, groups)
        query_targets = criterion.encode_query_targets(
            targets, outputs.size_px, self.config.heading_bins, groups
        )
        logits, edges_m = outputs.heads.depth_map, outputs.heads.depth_edges_m
        depth_target_m = depth_predictor.paint_depth(
            targets, assignment.trainable, *logits.shape[2:]
        )
        return {
            **criterion.set_criterion(heads, query_targets, assignment.matches, normalizer),
            'det/depth_map': depth_predictor.depth_map_focal_loss(
                logits, depth_target_m, edges_m, normalizer
            ),
        }

    def decode(self, outputs: Outputs[MonoDETRHeads]) -> dict[str, Tensor]:
        """Decode forward's outputs into the fields of ImageObjects, (B, K, ...)."""
        return decode_queries(self._last_layer_heads(outputs), outputs.size_px, self.config)

    def predictions_at_targets(
        self, outputs: Outputs[MonoDETRHeads], targets: Targets
    ) -> TargetPredictions:
        """
        Return the raw outputs of each target's query after the last decoder layer.

        Ignored targets are not found, and some of more targets than queries are not. The token of
        a target is the hidden vector of its query.
        """
        heads = self._last_layer_heads(outputs)
        assignment = find_assignment(outputs, targets)
        if assignment is None:
            last_layer = heads.map(lambda head: head[:, None])
            assignment = assign_targets(last_layer, targets, outputs.size_px, groups=1)
        matches = assignment.matches
        query, hidden = matches.query[:, -1, 0], outputs.heads.hidden
        at_targets = heads.gather(query)
        return TargetPredictions(
            predictions={
                'center_box': at_targets.box,
                'size_hwl_m': at_targets.size_3d,
                'heading': at_targets.heading,
                'depth': depth_encoding.to_logit(at_targets.depth[..., :1]),
            },
            depth_sigma_m=at_targets.depth[..., 1].exp(),
            found=matches.matched[:, -1, 0],
            tokens=None if hidden is None else gather_queries(hidden.float(), query),
        )

    def _last_layer_heads(self, outputs: Outputs[MonoDETRHeads]) -> QueryHeads:
        """Return the heads (B, Q, channels) of the first group after the last decoder layer."""
        first = slice(self.config.queries)
        return outputs.heads.queries().map(lambda head: head[:, -1, first].float())


def decode_queries(
    heads: QueryHeads, size_px: tuple[int, int], config: MonoDETRConfig
) -> dict[str, Tensor]:
    """
    Decode the raw heads of one decoder layer into objects.

    The score is the class probability divided by 1 + sigma (metres). It is in [0, 1] and falls
    with both the uncertainty of the object's presence and that of its depth. A query may give
    objects of several classes.

    :param heads: the raw heads of one layer, (B, Q, channels).
    :param size_px: height and width of the canvas.
    :param config: heading bins and the number of objects.
    :return: the fields of ImageObjects, (B, K, ...), in network pixels and metres, sorted by
        decreasing probability.
    """
    p = heads.class_logits.sigmoid()
    classes = p.shape[-1]
    probability, index = p.flatten(1).topk(min(config.max_objects, p[0].numel()))
    query = torch.div(index, classes, rounding_mode='floor')
    predicted = heads.gather(query)
    box, bins = predicted.box.sigmoid(), config.heading_bins
    log_sigma = predicted.depth[..., 1]
    best_bin = predicted.heading[..., :bins].argmax(-1)
    residual = predicted.heading[..., bins:].gather(-1, best_bin[..., None])[..., 0]
    return {
        'class_id': index % classes,
        'score': probability / (1 + log_sigma.exp()),
        'center_px': box_coding.to_pixels(box[..., :2], size_px),
        'depth_m': predicted.depth[..., 0].clamp(min=0.01),
        'size_hwl_m': predicted.size_3d.clamp(min=0.01),
        'alpha': heatmap.decode_angle(best_bin, residual, bins),
        'box_px': box_coding.to_pixels(box_coding.box_cxcylrtb_to_xyxy(box), size_px),
        'depth_log_sigma': log_sigma,
    }


def _build_projection(channels: int, width: int, stride: int) -> nn.Sequential:
    """Build the projection of a map to token width; 1x1, or 3x3 for a stride of 2."""
    size = 2 * stride - 1
    conv = nn.Conv2d(channels, width, size, stride, padding=size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.GroupNorm(32, width))
