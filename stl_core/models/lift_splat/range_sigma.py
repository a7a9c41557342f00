"""
The standard deviation of an object's range, which MonoSTL's gates read.

At the cell of a label the range is known to half a cell, whatever the network knows. What a
detection's range is worth shows where the network itself sees the object: at the highest cell of
its heatmap within MATCH_M of the label, the greatest distance at which nuScenes still counts a
match. The range there is compared with the label's by a Laplacian likelihood, whose log sigma is
read at the same cell, where a detection reads it, too.
Shapes: S samples, N slots, C classes, Y X grid of the ground, R side of a window in cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.models.lift_splat.grid import BevGrid

#: Distance from the label within which a peak counts as that of the object, metres.
MATCH_M = 4.0


@torch.no_grad()
def strongest_cells(logits: Tensor, class_id: Tensor, cell: Tensor, grid: BevGrid) -> Tensor:
    """
    Return the highest cell of each object's class around the cell of its label.

    :param logits: (S, C, Y, X) raw heatmap.
    :param class_id: (S, N).
    :param cell: (S, N) flat cells of the labels, inside the grid.
    :param grid: the grid.
    :return: (S, N) flat cells.
    """
    reach = max(int(MATCH_M / grid.cell_m), 1)
    step = torch.arange(-reach, reach + 1, device=cell.device)
    column = (cell % grid.columns)[..., None, None] + step
    row = torch.div(cell, grid.columns, rounding_mode='floor')[..., None, None] + step[:, None]
    inside = (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
    inside = inside & (step.square()[:, None] + step.square() <= reach**2)
    around = row.clamp(0, grid.rows - 1) * grid.columns + column.clamp(0, grid.columns - 1)
    index = (class_id[..., None, None] * grid.cells + around).flatten(1)
    height = logits.flatten(1).gather(1, index).view_as(around)
    best = height.masked_fill(~inside, -torch.inf).flatten(2).argmax(-1)
    return around.flatten(2).gather(2, best[..., None])[..., 0]
