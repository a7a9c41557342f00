"""The picture of what a distillation selects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stl_core import charts
from stl_core.selection import Selection
from stl_core.types import Array

#: Title of a gate, its column, and the sigma that opens or shuts it.
GATES: Mapping[str, tuple[str, str]] = {
    'DASFD: what the student is unsure of': ('feature', 'student_sigma_m'),
    'DASRD: what the teacher is sure of': ('relation', 'teacher_sigma_m'),
}


def chart(seen: Selection, path: Path) -> None:
    """
    Draw gates against depth and sigma, and relations of teacher, student before and after.

    :param seen: what to draw.
    :param path: PNG to write.
    """
    figure = charts.new_figure(11, 6.6)
    grid = figure.add_gridspec(2, 1)
    upper, lower = (figure.add_subfigure(grid[row]) for row in range(2))
    panels = upper.subplots(1, 4)
    for place, (title, (name, sigma)) in enumerate(GATES.items()):
        weight, sigma_m = getattr(seen.gates, name), getattr(seen.gates, sigma)
        _gate(panels[2 * place], seen.gates.depth_m, weight, 'depth, m', title)
        _gate(panels[2 * place + 1], sigma_m, weight, sigma.replace('_sigma_m', "'s sigma, m"), '')
        panels[2 * place + 1].set_xscale('log')
        charts.tell_plainly(panels[2 * place + 1].xaxis)
    matrices = lower.subplots(1, 3)
    told = seen.relations
    for axes, (title, matrix) in zip(
        matrices,
        {
            'teacher': told.teacher,
            f'student before, mean gap {seen.gap_before:.3f}': told.before,
            f'student after, mean gap {seen.gap_after:.3f}': told.after,
        }.items(),
        strict=True,
    ):
        shown = axes.imshow(matrix, vmin=-1, vmax=1, cmap='RdBu_r')
        axes.set_title(title, fontsize=9, loc='left')
        places = range(len(told.depth_m))
        axes.set_xticks(places, [f'{z:.0f}' for z in told.depth_m], fontsize=6)
        axes.set_yticks(places, [f'{z:.0f} m' for z in told.depth_m], fontsize=6)
    bar = lower.colorbar(shown, ax=list(matrices), shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    what = f'relations of the objects of frame {told.frame} at stride {told.stride}, nearest first'
    lower.supxlabel(f'{what}; gaps are means over all frames', fontsize=8)
    charts.save(figure, path)


def _gate(axes: Any, across: Array, weight: Array, what: str, title: str) -> None:
    axes.plot(across, weight, '.', ms=3, alpha=0.4, color='tab:blue')
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(what, fontsize=8)
    axes.set_title(title, fontsize=9, loc='left')
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
