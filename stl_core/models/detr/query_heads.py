"""
Raw head outputs of MonoDETR: those of its queries, and the depth map.

Shapes: B batch, L decoder layers, G groups, Q queries of a group, N slots, C classes, A heading
bins, D depth bins, h w grid of the depth map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class QueryHeads:
    """
    Raw outputs of queries, with the same leading dimensions, such as (B, L, G Q).

    :param class_logits: (..., C).
    :param box: (..., 6) logits: projected 3D centre, distances to the 2D box's sides; see
        box_coding.
    :param size_3d: (..., 3) height, width, length, metres.
    :param heading: (..., 2A) bin logits, then residuals in radians.
    :param depth: (..., 2) depth in metres (the regression of a query: its logit), log sigma.
    """

    class_logits: Tensor
    box: Tensor
    size_3d: Tensor
    heading: Tensor
    depth: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> QueryHeads:
        """Return the heads with a function applied to each, such as a selection of queries."""
        return QueryHeads(**{name: function(value) for name, value in vars(self).items()})

    def layer(self, index: int) -> QueryHeads:
        """Return the outputs (B, G Q, channels) of one decoder layer, float32."""
        return self.map(lambda head: head[:, index].float())

    def gather(self, query: Tensor) -> QueryHeads:
        """Return the outputs (B, N, channels) of queries (B, N) from heads (B, G Q, channels)."""
        return self.map(lambda head: gather_queries(head, query))


def gather_queries(values: Tensor, query: Tensor) -> Tensor:
    """Return the values (B, N, channels) of queries (B, N) from (B, Q, channels)."""
    return values.gather(1, query[..., None].expand(-1, -1, values.shape[-1]))


@dataclass(frozen=True)
class MonoDETRHeads:
    """
    Raw outputs of MonoDETR after every decoder layer; G is 1 at inference.

    :param class_logits: (B, L, G Q, C).
    :param box: (B, L, G Q, 6), see QueryHeads.
    :param size_3d: (B, L, G Q, 3) metres.
    :param heading: (B, L, G Q, 2A).
    :param depth: (B, L, G Q, 2) mean of three estimates in metres, log sigma.
    :param depth_map: (B, D + 1, h, w) logits of the depth bins, the background last.
    :param depth_edges_m: (B, D + 1) near edges of the depth bins of each image.
    :param hidden: (B, Q, width) queries of the first group after the last layer, before the heads:
        no head output, but the vectors by which the network represents objects.
    """

    class_logits: Tensor
    box: Tensor
    size_3d: Tensor
    heading: Tensor
    depth: Tensor
    depth_map: Tensor
    depth_edges_m: Tensor
    hidden: Tensor | None = None

    def queries(self) -> QueryHeads:
        """Return the heads of the queries."""
        return QueryHeads(self.class_logits, self.box, self.size_3d, self.heading, self.depth)

    def as_dict(self) -> dict[str, Tensor]:
        """Return the heads by name; class_logits is named 'class'."""
        heads = {name: value for name, value in vars(self).items() if name != 'hidden'}
        return {'class': heads.pop('class_logits'), **heads}


def build_query_heads(
    width: int, decoder_layers: int, heading_bins: int, num_classes: int
) -> nn.ModuleDict:
    """
    Build one head of each kind per decoder layer; classes start rare, first boxes small.

    :param width: channels of a query.
    :param decoder_layers: L.
    :param heading_bins: A.
    :param num_classes: C.
    :return: {name of the head: list of a module per layer}.
    """
    layers = range(decoder_layers)
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
            'heading': nn.ModuleList(_mlp(width, 2 * heading_bins, 2) for _ in layers),
            'depth': nn.ModuleList(_mlp(width, 2, 2) for _ in layers),
        }
    )


def _mlp(width: int, out: int, layers: int) -> nn.Sequential:
    """Build an MLP: linear layers of constant width with ReLU between them."""
    hidden: list[nn.Module] = []
    for _ in range(layers - 1):
        hidden += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, out))
