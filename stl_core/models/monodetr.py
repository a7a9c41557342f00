"""
MonoDETR (Zhang et al., ICCV 2023): a depth-guided transformer, one query an object.

Maps at strides 8, 16, 32 of the backbone, and 64, go to one width. A depth map at stride 16 is
told from three of them. Queries read both, and after every decoder layer say a class, a box, a
size, a heading and a depth, which is the mean of three: told by the query, by the size of its box
(f h / h_px), and read off the depth map at its centre.
Heads, (B, L, Q, .): class C logits, box 6 logits (see center_box), size_3d 3 metres, heading 2A
(bins, remainders), depth 2 (metres, log sigma); depth_map (B, D + 1, H/16, W/16) logits and
depth_edges_m (B, D + 1), the near edge of its bins in each image.
Shapes: B batch, L decoder layers, Q queries, N slots, K objects read, A heading bins, D depth
bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stl_core.models.backbone import STRIDES, Backbone
from stl_core.models.centernet import heatmap
from stl_core.models.detr import box_coding, criterion, depth_predictor, matcher
from stl_core.models.detr.transformer import (
    Decoder,
    DepthEncoder,
    EncoderMemory,
    TransformerDims,
    VisualEncoder,
)
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import Outputs, Targets
from stl_core.tensors.precision import in_float32

#: Weight of every loss in the paper; each is a sum over decoder layers, which weigh the same.
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


@dataclass(frozen=True)
class MonoDETRConfig:
    """
    The numbers of a MonoDETR detector.

    :param backbone: a timm model; the paper's is ResNet-50 with torchvision's weights.
    :param pretrained: start the backbone from timm's ImageNet weights. Then, as in the paper,
        its norms and its stages up to stride 4 stay as they came, unless it sees depth: those
        were made for colours.
    :param width: channels of tokens, a multiple of 32 and of attention_heads.
    :param attention_heads: of every attention.
    :param points: that a head of a deformable attention looks at on each map.
    :param feedforward: hidden width between attentions.
    :param encoder_layers: of the visual encoder.
    :param decoder_layers: L.
    :param dropout: share of values dropped in the transformer in training.
    :param queries: Q, most objects found in an image.
    :param groups: times that queries exist in training; only the first group is run.
    :param heading_bins: A.
    :param depth_bins: D.
    :param max_depth_m: far edge of the last depth bin.
    :param max_objects: most objects read from an image.
    :param virtual_focal_px: focal length at which depth is learnt, network pixels: everything
        that tells depth says how far an object would be if this lens showed it at its size, and
        the true focal length stretches that. One checkpoint then serves every lens. 0 learns
        depth itself, as in the paper, for one lens.
    """

    backbone: str = 'resnet50.tv_in1k'
    pretrained: bool = False
    width: int = 256
    attention_heads: int = 8
    points: int = 4
    feedforward: int = 256
    encoder_layers: int = 3
    decoder_layers: int = 3
    dropout: float = 0.1
    queries: int = 50
    groups: int = 11
    heading_bins: int = 12
    depth_bins: int = 80
    max_depth_m: float = 60.0
    max_objects: int = 50
    virtual_focal_px: float = 720.0


class MonoDETR(nn.Module):
    """The detector; see the module for its heads."""

    strides = STRIDES[1:]

    def __init__(self, config: MonoDETRConfig, in_channels: int, num_classes: int) -> None:
        """
        Build backbone, depth map, transformer and heads.

        :param config: the numbers.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :raises ValueError: for a width that norms or attentions cannot divide.
        """
        super().__init__()
        if config.width % 32 or config.width % config.attention_heads:
            raise ValueError(
                f'width {config.width}: expected a multiple of 32 and of attention_heads '
                f'({config.attention_heads})'
            )
        self.config = config
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        self.channels = self.backbone.channels[1:]
        self.frozen_norms = config.pretrained and in_channels == 3
        if self.frozen_norms:
            self.backbone.freeze_early_stages()
        width = config.width
        self.project = nn.ModuleList(_build_projection(each, width, 1) for each in self.channels)
        self.project.append(_build_projection(self.channels[-1], width, 2))
        self.depth_map = depth_predictor.DepthPredictor(
            width, config.depth_bins, config.max_depth_m
        )
        dims = TransformerDims(
            width, config.attention_heads, config.points, config.feedforward, config.dropout
        )
        self.visual_encoder = VisualEncoder(dims, config.encoder_layers)
        self.depth_encoder = DepthEncoder(dims, config.max_depth_m)
        self.decoder = Decoder(dims, config.decoder_layers)
        self.queries = nn.Embedding(config.groups * config.queries, 2 * width)
        self.heads = _build_heads(config, num_classes)

    def train(self, mode: bool = True) -> MonoDETR:
        """Switch to training, but for a pretrained backbone, whose norms keep their statistics."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen_norms)
        return self

    def forward(self, image: Tensor, P: Tensor, targets: Targets | None = None) -> Outputs:
        """
        Run the network.

        :param image: (B, in_channels, H, W) normalised.
        :param P: (B, 3, 4) projections; their focal lengths turn size into depth.
        :param targets: not looked at: the public code's denoising is off by default.
        :return: backbone maps and heads; of all groups of queries in training, else the first.
        """
        features = self.backbone(image)[1:]
        sources = (*features, features[-1])
        maps = tuple(layer(each) for layer, each in zip(self.project, sources, strict=True))
        logits, depth_m, tokens = self.depth_map(maps[:3])
        memory = EncoderMemory(self.depth_encoder(tokens, depth_m), *self.visual_encoder(maps))
        groups = self.config.groups if self.training else 1
        queries = self.queries.weight[: groups * self.config.queries]
        hidden, box = self.decoder(queries, groups, memory, self.heads['box'])
        heads = {'box': box, 'depth_map': logits}
        for name in ('class', 'size_3d', 'heading', 'depth'):
            layers = self.heads[name].children()
            parts = [in_float32(head, hidden[:, layer]) for layer, head in enumerate(layers)]
            heads[name] = torch.stack(parts, 1)
        focal, virtual = P[:, 0, 0], self.config.virtual_focal_px
        trained_focal_px = torch.full_like(focal, virtual) if virtual else focal
        focal_ratio = focal / trained_focal_px
        heads['depth'] = mean_depth(heads, depth_m, trained_focal_px, focal_ratio)
        heads['depth_edges_m'] = self.depth_map.edges_m * focal_ratio[:, None]
        return Outputs(features, heads)

    def losses(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """
        Compare outputs with targets.

        :param out: what forward returned.
        :param targets: network pixels, metres; those whose centre is off the canvas or out of
            their 2D box are not taught.
        :return: unweighted scalars, summed over decoder layers, keys 'det/...'.
        """
        groups = out.heads['class'].shape[2] // self.config.queries
        cost, trainable = _matching_cost(out.heads, targets, _canvas_size_px(out))
        query_targets = criterion.encode_query_targets(
            targets, _canvas_size_px(out), self.config.heading_bins, groups
        )
        heads = {name: out.heads[name] for name in self.heads}
        logits, edges_m = out.heads['depth_map'], out.heads['depth_edges_m']
        depth_target_m = depth_predictor.paint_depth(targets, trainable, *logits.shape[2:])
        return {
            **criterion.set_criterion(
                heads, query_targets, matcher.hungarian_match(cost, trainable, groups)
            ),
            'det/depth_map': depth_predictor.depth_map_focal_loss(logits, depth_target_m, edges_m),
        }

    def decode(self, out: Outputs) -> dict[str, Tensor]:
        """Turn what forward returned into the fields of ImageObjects (B, K, ...)."""
        return decode_queries(self._last_layer_heads(out), _canvas_size_px(out), self.config)

    def depth_confidence(self, out: Outputs, targets: Targets) -> Tensor:
        """(B, N) certainty of depth of each target's query, 1 / (1 + sigma); 0 without a query."""
        at, matched = self._heads_at_targets(out, targets)
        return torch.where(matched, 1 / (1 + at['depth'][..., 1].exp()), 0)

    def predictions_at_targets(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Say what the query of each target says, {name: (B, N, D)}; of depth the logit alone."""
        at, _ = self._heads_at_targets(out, targets)
        return {
            'center_box': at['box'],
            'size_hwl_m': at['size_3d'],
            'heading': at['heading'],
            'depth': depth_encoding.to_logit(at['depth'][..., :1]),
        }

    def _last_layer_heads(self, out: Outputs) -> dict[str, Tensor]:
        """(B, Q, .) heads of the first group after the last layer."""
        first = slice(self.config.queries)
        return {name: out.heads[name][:, -1, first].float() for name in self.heads}

    def _heads_at_targets(
        self, out: Outputs, targets: Targets
    ) -> tuple[dict[str, Tensor], Tensor]:
        """
        Find what each target's query says, the cheapest where none is paired.

        :return: (B, N, .) last heads, and (B, N) bool, whether one is paired: not for what labels
            do not teach, nor where there are fewer queries than targets.
        """
        heads = self._last_layer_heads(out)
        last_layer = {name: head[:, None] for name, head in heads.items()}
        cost, trainable = _matching_cost(last_layer, targets, _canvas_size_px(out))
        matches = matcher.hungarian_match(cost, trainable, groups=1)
        matched = matches.matched[:, 0, 0]
        query = torch.where(matched, matches.query[:, 0, 0], cost[:, 0].argmin(1))
        return criterion.gather_queries(heads, query), matched


def decode_queries(
    heads: dict[str, Tensor], canvas_px: Tensor, config: MonoDETRConfig
) -> dict[str, Tensor]:
    """
    Turn raw heads into objects.

    The score is the class's probability divided by 1 + sigma (metres): bounded, and falling with
    both doubts, whether it is there and how far. A query may be read as several classes.

    :param heads: the raw heads of one layer, (B, Q, .).
    :param canvas_px: (2,) width, height.
    :param config: heading bins and the number of objects.
    :return: the fields of ImageObjects, (B, K, ...), by falling probability.
    """
    p = heads['class'].sigmoid()
    classes = p.shape[-1]
    probability, index = p.flatten(1).topk(min(config.max_objects, p[0].numel()))
    query = torch.div(index, classes, rounding_mode='floor')
    at = criterion.gather_queries(heads, query)
    box, bins, log_sigma = at['box'].sigmoid(), config.heading_bins, at['depth'][..., 1]
    chosen = at['heading'][..., :bins].argmax(-1)
    residual = at['heading'][..., bins:].gather(-1, chosen[..., None])[..., 0]
    return {
        'class_id': index % classes,
        'score': probability / (1 + log_sigma.exp()),
        'center_px': box[..., :2] * canvas_px,
        'depth_m': at['depth'][..., 0].clamp(min=0.01),
        'size_hwl_m': at['size_3d'].clamp(min=0.01),
        'alpha': heatmap.decode_angle(chosen, residual, bins),
        'box_px': box_coding.box_cxcylrtb_to_xyxy(box) * canvas_px.repeat(2),
        'depth_log_sigma': log_sigma,
    }


def mean_depth(
    heads: dict[str, Tensor], depth_m: Tensor, trained_focal_px: Tensor, focal_ratio: Tensor
) -> Tensor:
    """
    Average three tellings of depth: by the query, by its size and by the map.

    :param heads: 'box', 'size_3d', and 'depth' as told by the queries (logit, log sigma).
    :param depth_m: (B, h, w) expected by the depth map, at the focal length it is learnt at.
    :param trained_focal_px: (B,) that focal length, network pixels.
    :param focal_ratio: (B,) true over learnt.
    :return: (B, L, Q, 2) metres, log sigma.
    """
    box, predicted = heads['box'].float().sigmoid(), heads['depth'].float()
    height_px = (
        box_coding.box_width_height(box)[..., 1] * depth_m.shape[1] * depth_predictor.STRIDE
    ).clamp(min=1)
    by_size = heads['size_3d'][..., 0].float() * trained_focal_px[:, None, None] / height_px
    # from corner to corner of the map: its outermost cells are read at the very edge
    on_map = nn.functional.grid_sample(
        depth_m[:, None], 2 * box[..., :2].detach() - 1, align_corners=True
    )[:, 0]
    mean_m = (depth_encoding.from_logit(predicted[..., 0]) + by_size + on_map) / 3
    focal_ratio = focal_ratio[:, None, None]
    return torch.stack([mean_m * focal_ratio, predicted[..., 1] + focal_ratio.log()], -1)


def _matching_cost(
    heads: dict[str, Tensor], targets: Targets, canvas_px: Tensor
) -> tuple[Tensor, Tensor]:
    """Price queries (B, L, Q, .) for targets, (B, L, Q, N), and tell the taught ones, (B, N)."""
    target_box = box_coding.encode_boxes(targets, canvas_px)
    cost = matcher.matching_cost(
        heads['class'], heads['box'].sigmoid(), targets.class_id, target_box
    )
    return cost, targets.valid & box_coding.is_representable(target_box)


def _canvas_size_px(out: Outputs) -> Tensor:
    """(2,) width and height of the canvas, pixels, told by the depth map's grid."""
    grid = out.heads['depth_map']
    h, w = grid.shape[2:]
    return torch.tensor(
        [w * depth_predictor.STRIDE, h * depth_predictor.STRIDE], device=grid.device
    ).float()


def _build_heads(config: MonoDETRConfig, num_classes: int) -> nn.ModuleDict:
    """Build the heads, one of each a decoder layer; classes start rare, first boxes small."""
    width = config.width
    layers = range(config.decoder_layers)
    classes = [nn.Linear(width, num_classes) for _ in layers]
    for linear in classes:
        nn.init.constant_(linear.bias, -4.595)  # a probability of 0.01
    boxes = [_mlp(width, 6, 3) for _ in layers]
    nn.init.constant_(boxes[0][-1].bias[2:], -2.0)  # type: ignore
    return nn.ModuleDict(
        {
            'class': nn.ModuleList(classes),
            'box': nn.ModuleList(boxes),
            'size_3d': nn.ModuleList(_mlp(width, 3, 2) for _ in layers),
            'heading': nn.ModuleList(_mlp(width, 2 * config.heading_bins, 2) for _ in layers),
            'depth': nn.ModuleList(_mlp(width, 2, 2) for _ in layers),
        }
    )


def _mlp(width: int, out: int, layers: int) -> nn.Sequential:
    """Build linear layers with ReLU between them."""
    between: list[nn.Module] = []
    for _ in range(layers - 1):
        between += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*between, nn.Linear(width, out))


def _build_projection(channels: int, width: int, stride: int) -> nn.Sequential:
    """Bring a map to the width of tokens; a stride of 2 halves it, too."""
    size = 2 * stride - 1
    conv = nn.Conv2d(channels, width, size, stride, padding=size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.GroupNorm(32, width))
