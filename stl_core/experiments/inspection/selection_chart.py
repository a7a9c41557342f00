"""Chart of the object weights and affinities of a distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stl_core.experiments.inspection.selection import DistillationSnapshot, ObjectWeights
from stl_core.visualization import charts


def plot_snapshot(snapshot: DistillationSnapshot, path: Path) -> None:
    """
    Draw object weights against depth and sigma, and affinities of the teacher and both students.

    :param snapshot: object weights, and affinities before and after distillation.
    :param path: PNG to write.
    """
    figure = charts.new_figure(11, 6.6)
    grid = figure.add_gridspec(2, 1)
    upper, lower = (figure.add_subfigure(grid[row]) for row in range(2))
    _plot_object_weights(upper, snapshot.object_weights)
    matrices = lower.subplots(1, 3)
    affinities = snapshot.affinities
    before, after = snapshot.mean_difference_before, snapshot.mean_difference_after
    titled = {
        'teacher': affinities.teacher,
        f'student before, mean gap {before:.3f}': affinities.student_before,
        f'student after, mean gap {after:.3f}': affinities.student_after,
    }
    for axes, (title, matrix) in zip(matrices, titled.items(), strict=True):
        image = axes.imshow(matrix, vmin=-1, vmax=1, cmap='RdBu_r')
        axes.set_title(title, fontsize=9, loc='left')
        ticks = range(len(affinities.depth_m))
        axes.set_xticks(ticks, [f'{z:.0f}' for z in affinities.depth_m], fontsize=6)
        axes.set_yticks(ticks, [f'{z:.0f} m' for z in affinities.depth_m], fontsize=6)
    bar = lower.colorbar(image, ax=list(matrices), shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    lower.supxlabel(
        f'relations of the objects of frame {affinities.frame} at stride {affinities.stride},'
        ' nearest first; gaps are means over all frames',
        fontsize=8,
    )
    charts.save_figure(figure, path)


def _plot_object_weights(figure: Any, weights: ObjectWeights) -> None:
    """
    Draw the weights of DASFD and DASRD against depth and against the sigmas they depend on.

    DASFD depends on two sigmas, so its weight is drawn as colour.
    """
    feature, both, relation, teacher = figure.subplots(1, 4)
    dots = {'s': 9, 'alpha': 0.5, 'linewidths': 0}
    for axes, weight, title in (
        (feature, weights.feature_weight, 'DASFD: what the teacher knows better'),
        (relation, weights.relation_weight, 'DASRD: what the teacher is sure of'),
    ):
        axes.scatter(weights.depth_m, weight, **dots)
        axes.set_xlabel('depth, m', fontsize=8)
        axes.set_title(title, fontsize=9, loc='left')
    teacher.scatter(weights.teacher_sigma_m, weights.relation_weight, **dots)
    points = both.scatter(
        *(weights.teacher_sigma_m, weights.student_sigma_m),
        **{
            **dots,
            'alpha': 1.0,
            'c': weights.feature_weight,
            'vmin': 0,
            'vmax': 1,
            'cmap': 'viridis',
        },
    )
    figure.colorbar(points, ax=both).ax.tick_params(labelsize=7)
    both.set_ylabel("student's sigma, m", fontsize=8)
    both.set_yscale('log')
    charts.set_plain_log_ticks(both.yaxis)
    for axes in (both, teacher):
        axes.set_xscale('log')
        axes.set_xlabel("teacher's sigma, m", fontsize=8)
        charts.set_plain_log_ticks(axes.xaxis)
    for axes in (feature, relation, teacher):
        axes.set_ylim(-0.03, 1.03)
    for axes in (feature, both, relation, teacher):
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
