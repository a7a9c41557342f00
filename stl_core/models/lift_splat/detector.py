"""
Lift-splat: detect objects around a vehicle in the pictures of all of its cameras together.

Features of image cells are lifted to the depths of a categorical distribution, added up in the
cells of the ground (splat), and read by centre heads: the layout of BEVDepth (Li et al., AAAI
2023), single frame, in plain torch. Geometry, pooling, losses and decoding are written from the
mathematics; frustum.py names where the public code differs.
Shapes: B images, S samples of V views, N slots, K peaks, D depth bins, h w grid at stride 16,
Y X grid of the ground.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from stl_core.models.backbone import STRIDES, Backbone
from stl_core.models.depth_association import require_given_depth
from stl_core.models.lift_splat import heads as center_heads
from stl_core.models.lift_splat.depth_loss import DEPTH_SUPERVISIONS, depth_loss
from stl_core.models.lift_splat.depth_net import DepthNet, camera_code, insert_given_depth
from stl_core.models.lift_splat.frustum import voxel_index
from stl_core.models.lift_splat.grid import BevGrid, DepthBins
from stl_core.models.lift_splat.heads import CenterHeads, LiftSplatHeads
from stl_core.models.lift_splat.layers import FEATURE_STRIDE, BevTrunk, ImageNeck
from stl_core.models.lift_splat.pooling import mask_absent, pool_frustum
from stl_core.models.lift_splat.range_sigma import strongest_cells
from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.detector import Outputs, TargetPredictions, check_head_names
from stl_core.tensors.feature_level import LevelSpec, backbone_levels
from stl_core.tensors.precision import autocast_to
from stl_core.tensors.reductions import StepNormalizer
from stl_core.tensors.rig import Rig, RigTargets, as_rig_targets, require_rig

#: Weight of every loss: BEVDepth's 3 for depth; CenterPoint's 0.25 per regressed number (half of
#: it for velocities), as our L1 losses are means over the numbers of a head; the rest is ours.
LOSS_WEIGHTS = {
    'det/heatmap': 1.0,
    'det/offset': 0.5,
    'det/height': 0.25,
    'det/size': 0.75,
    'det/yaw': 0.5,
    'det/velocity': 0.25,
    'det/attribute': 0.2,
    'det/range': 0.1,
    'det/depth': 3.0,
}


@dataclass(frozen=True)
class LiftSplatConfig:
    """
    Configuration of a lift-splat detector; defaults are BEVDepth's with ResNet-50.

    :param backbone: a timm model, such as 'resnet50', 'resnet18' or 'tf_efficientnet_lite0'.
    :param pretrained: start the backbone from timm's ImageNet weights.
    :param neck_width: channels of each of the four maps that the image neck stacks.
    :param depth_width: channels of the depth network.
    :param depth_blocks: residual blocks of the depth network.
    :param context: channels of the features that are lifted.
    :param depth_range_m: near edge of the first and far edge of the last depth bin.
    :param depth_step_m: width of a depth bin.
    :param x_range_m: limits of the ground map along x (forward).
    :param y_range_m: limits along y (left).
    :param z_range_m: heights that are lifted to the map.
    :param cell_m: side of a cell of the map.
    :param bev_width: channels of the first stage of the map's trunk.
    :param bev_blocks: residual blocks of each of its stages.
    :param bev_channels: channels of the map that the heads read.
    :param head_width: hidden channels of each head.
    :param max_objects: K, most objects decoded from a sample.
    :param peak_ratio: least height of a peak of the heatmap relative to the highest cell among its
        neighbours. People and barriers stand in neighbouring cells of 0.8 m, where only one of
        them can be the maximum; of a single object, the neighbours are drawn at less than 0.87
        (small ones at 0.49), and boxes that overlap are dropped afterwards. CenterPoint reads all
        cells; 1 reads maxima alone.
    :param attributes: names of the attributes, in the order of attribute_id; none by default.
    :param depth_supervision: depth that the distribution learns: 'scan' (points of a LiDAR),
        'objects' (depths of object centres in their 2D boxes), or 'none'.
    """

    backbone: str = 'resnet50'
    pretrained: bool = False
    neck_width: int = 128
    depth_width: int = 512
    depth_blocks: int = 3
    context: int = 80
    depth_range_m: tuple[float, float] = (2.0, 58.0)
    depth_step_m: float = 0.5
    x_range_m: tuple[float, float] = (-51.2, 51.2)
    y_range_m: tuple[float, float] = (-51.2, 51.2)
    z_range_m: tuple[float, float] = (-5.0, 3.0)
    cell_m: float = 0.8
    bev_width: int = 160
    bev_blocks: int = 2
    bev_channels: int = 256
    head_width: int = 64
    max_objects: int = 300
    peak_ratio: float = 0.9
    attributes: tuple[str, ...] = ()
    depth_supervision: str = 'none'

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown depth_supervision, a wrong ratio, equal attributes."""
        if not 0 < self.peak_ratio <= 1:
            raise ValueError(f'peak_ratio: expected more than 0, at most 1; got {self.peak_ratio}')
        if self.depth_supervision not in DEPTH_SUPERVISIONS:
            known = ', '.join(DEPTH_SUPERVISIONS)
            raise ValueError(f'depth_supervision: {self.depth_supervision!r}; expected {known}')
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f'attributes: expected each once, got {list(self.attributes)}')

    @property
    def grid(self) -> BevGrid:
        """Return the grid of the ground map."""
        return BevGrid(self.x_range_m, self.y_range_m, self.z_range_m, self.cell_m)

    @property
    def bins(self) -> DepthBins:
        """Return the depth bins."""
        return DepthBins(*self.depth_range_m, self.depth_step_m)


class LiftSplat(nn.Module):
    """
    Lift-splat detector of the cameras of a vehicle, or of one camera.

    A privileged teacher (given_depth) has the same weights: where it is given depth, a one-hot at
    the bin replaces the predicted distribution, see insert_given_depth. The level 'bev', the input
    of the heads, is downstream of it; the backbone's levels, one map per image, are not.
    """

    def __init__(
        self,
        config: LiftSplatConfig,
        in_channels: int,
        num_classes: int,
        given_depth: bool = False,
    ) -> None:
        """
        Build the layers.

        :param config: configuration.
        :param in_channels: channels of the input images, 3 for RGB.
        :param num_classes: C.
        :param given_depth: whether it is a privileged teacher.
        :raises ValueError: for an unknown backbone, or a grid that cannot be used.
        """
        super().__init__()
        self.config, self.num_classes, self.given_depth = config, num_classes, given_depth
        self.grid, self.bins = config.grid, config.bins
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        self.neck = ImageNeck(self.backbone.channels, config.neck_width)
        self.depth_net = DepthNet(
            *(self.neck.out_channels, config.depth_width, self.bins.count),
            *(config.context, config.depth_blocks),
        )
        self.trunk = BevTrunk(
            config.context, config.bev_width, config.bev_blocks, config.bev_channels
        )
        channels = center_heads.head_channels(num_classes, len(config.attributes))
        check_head_names(LiftSplatHeads, [*channels, 'depth_bins'])
        self.heads = CenterHeads(config.bev_channels, config.head_width, channels)
        self.heads_plane = self.grid.plane
        self.levels = (
            LevelSpec('bev', config.bev_channels, self.heads_plane, after_given_depth=True),
            *backbone_levels(self.backbone.channels, STRIDES),
        )

    def voxel_index(self, P: Tensor, vehicle_T_cam: Tensor, size_px: tuple[int, int]) -> Tensor:
        """
        Return the cells of all frustum points, which depend on the cameras alone.

        :param P: (B, 3, 4) projections to network pixels.
        :param vehicle_T_cam: (B, 4, 4).
        :param size_px: height and width of the canvas.
        :return: (B, D, h, w) int64, see frustum.voxel_index.
        """
        hw = (size_px[0] // FEATURE_STRIDE, size_px[1] // FEATURE_STRIDE)
        return voxel_index(P, vehicle_T_cam, hw, size_px, self.bins, self.grid)

    def forward(
        self, inputs: NetworkInput, targets: RigTargets | None = None
    ) -> Outputs[LiftSplatHeads]:
        """
        Run the network.

        :param inputs: images, their projections, and the rig; its voxel_index is computed here if
            it has none.
        :param targets: unused; all detectors have the same signature.
        :return: features: the ground map that the heads read (S, ...), and the backbone's maps
            (B, ...); and the raw heads.
        :raises ValueError: for inputs without a rig that fits, or, in a privileged teacher,
            without given depth.
        """
        rig = require_rig(inputs.rig, len(inputs.image))
        maps = self.backbone(inputs.image)
        code = camera_code(inputs.P, rig.vehicle_T_cam, inputs.size_px)
        logits, context = self.depth_net(self.neck(maps), code)
        bev = self.trunk(self._splat(logits, context, inputs, rig))
        found = self.heads(bev)
        heads = LiftSplatHeads(**found, depth_bins=logits)
        return Outputs((bev, *maps), heads, inputs.size_px, inputs.P)

    def _splat(self, logits: Tensor, context: Tensor, inputs: NetworkInput, rig: Rig) -> Tensor:
        """Return the features of all cameras on the ground, (S, context, Y, X) float32."""
        index = rig.voxel_index
        if index is None:
            index = self.voxel_index(inputs.P, rig.vehicle_T_cam, inputs.size_px)
        index = mask_absent(index, rig.present, self.grid.cells)
        with autocast_to('fp32', context.device):
            probability = logits.softmax(1)
            if self.given_depth:
                given_m = require_given_depth(inputs)
                probability = insert_given_depth(probability, given_m, self.bins)
            shape = (self.grid.rows, self.grid.columns)
            return pool_frustum(probability, context, index, rig.views, shape)

    def losses(
        self, outputs: Outputs[LiftSplatHeads], targets: RigTargets, normalizer: StepNormalizer
    ) -> dict[str, Tensor]:
        """
        Compute the training losses.

        :param outputs: from forward.
        :param targets: vehicle frame; depth_m for depth supervision.
        :param normalizer: normaliser of the step.
        :return: unweighted scalars, the keys of LOSS_WEIGHTS.
        """
        targets = as_rig_targets(targets)
        heads = outputs.heads
        losses = center_heads.center_losses(
            heads, targets, self.num_classes, self.grid, normalizer
        )
        depth_m = targets.depth_m if self.config.depth_supervision != 'none' else None
        return {
            **losses,
            'det/depth': depth_loss(heads.depth_bins, depth_m, self.bins, normalizer),
        }

    def decode(self, outputs: Outputs[LiftSplatHeads]) -> dict[str, Tensor]:
        """Decode forward's outputs into the fields of VehicleObjects, (S, K, ...)."""
        config = self.config
        return center_heads.decode_heads(
            outputs.heads, self.grid, config.max_objects, config.peak_ratio
        )

    def predictions_at_targets(
        self, outputs: Outputs[LiftSplatHeads], targets: RigTargets
    ) -> TargetPredictions:
        """Return the raw heads at each target's cell; found where it is inside the grid."""
        cell, inside = center_heads.target_cells(as_rig_targets(targets), self.grid)
        heads = outputs.heads
        peak = strongest_cells(heads.heatmap, targets.class_id, cell, self.grid)
        at_peak = center_heads.gather_heads(heads, peak)
        return TargetPredictions(
            predictions=center_heads.gather_heads(heads, cell),
            depth_sigma_m=at_peak['range'][..., 0].exp(),
            found=inside,
        )


class RigGraph(nn.Module):
    """
    The detector as a graph without geometry, for exports: voxel indices are an input.

    A constant would ignore new extrinsics, and an inverse of matrices is no operator of most
    runtimes.
    """

    def __init__(self, detector: LiftSplat, views: int) -> None:
        """Wrap a detector for sets of `views` cameras."""
        super().__init__()
        self.detector, self.views = detector, views

    def forward(
        self,
        image: Tensor,
        P: Tensor,
        vehicle_T_cam: Tensor,
        present: Tensor,
        voxel_index: Tensor,
    ) -> tuple[Tensor, ...]:
        """
        Return the raw maps of the ground in the order of head_channels.

        :param image: (B, 3, H, W) normalised.
        :param P: (B, 3, 4) and vehicle_T_cam (B, 4, 4), for the code of the cameras alone.
        :param present: (B,) bool.
        :param voxel_index: (B, D, h, w) int64.
        """
        rig = Rig(self.views, vehicle_T_cam, present, voxel_index)
        heads = self.detector(NetworkInput(image, P, rig=rig)).heads.as_dict()
        return tuple(heads[name] for name in self.detector.heads.heads)
