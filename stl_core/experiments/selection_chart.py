"""The picture of what a distillation selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stl_core.experiments.selection import Gates, Selection
from stl_core.visualization import charts


def chart(seen: Selection, path: Path) -> None:
    """
    Draw gates against depth and sigma, and relations of teacher, student before and after.

    :param seen: what to draw.
    :param path: PNG to write.
    """
    figure = charts.new_figure(11, 6.6)
    grid = figure.add_gridspec(2, 1)
    upper, lower = (figure.add_subfigure(grid[row]) for row in range(2))
    _gates(upper, seen.gates)
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


def _gates(figure: Any, seen: Gates) -> None:
    """
    Draw DASFD and DASRD against depth and against the sigmas that they ask for.

    DASFD asks two, so that its weight there is a colour.
    """
    feature, both, relation, teacher = figure.subplots(1, 4)
    dots = {'s': 9, 'alpha': 0.5, 'linewidths': 0}
    for axes, weight, title in (
        (feature, seen.feature, 'DASFD: what the teacher knows better'),
        (relation, seen.relation, 'DASRD: what the teacher is sure of'),
    ):
        axes.scatter(seen.depth_m, weight, **dots)
        axes.set_xlabel('depth, m', fontsize=8)
        axes.set_title(title, fontsize=9, loc='left')
    teacher.scatter(seen.teacher_sigma_m, seen.relation, **dots)
    shown = both.scatter(
        *(seen.teacher_sigma_m, seen.student_sigma_m),
        **{**dots, 'alpha': 1.0, 'c': seen.feature, 'vmin': 0, 'vmax': 1, 'cmap': 'viridis'},
    )
    figure.colorbar(shown, ax=both).ax.tick_params(labelsize=7)
    both.set_ylabel("student's sigma, m", fontsize=8)
    both.set_yscale('log')
    charts.tell_plainly(both.yaxis)
    for axes in (both, teacher):
        axes.set_xscale('log')
        axes.set_xlabel("teacher's sigma, m", fontsize=8)
        charts.tell_plainly(axes.xaxis)
    for axes in (feature, relation, teacher):
        axes.set_ylim(-0.03, 1.03)
    for axes in (feature, both, relation, teacher):
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
