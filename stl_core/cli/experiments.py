"""`stl study`, `show-selection`, `show-transfer`, `fresh-scorer`: compare distillations."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.cli.output import OutputFile, OutputFolder, add_json_option, write_json
from stl_core.experiments import study, study_config, study_table
from stl_core.experiments.inspection import (
    fresh_scorer,
    frozen_features,
    selection,
    selection_chart,
    transfer_pictures,
)
from stl_core.experiments.report import comparisons, side_tables, study_chart, study_text
from stl_core.inference.runtimes.torch_runner import choose_device
from stl_core.training import stages
from stl_core.training.config_builder import ConfigError


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the subcommands."""
    parser = commands.add_parser(
        'study', help='train several methods and seeds, and print a table'
    )
    parser.add_argument('config', help='YAML file of the study')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='replace values of the file'
    )
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel runs')
    parser.add_argument(
        '--table-only', action='store_true', help='print the table without training'
    )
    parser.set_defaults(run=_run_study)
    _add_inspection_commands(commands)


def _add_inspection_commands(commands: Any) -> None:
    parser = commands.add_parser('show-selection', help='plot the weights of a distillation')
    parser.add_argument('config', help='YAML file of the run')
    parser.add_argument('out', type=OutputFile, help='PNG file to write')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='replace values of the file'
    )
    parser.add_argument('--stage', default='distil', help='name of the distillation stage')
    parser.add_argument('--frames', type=int, default=200, help='maximum number of val frames')
    parser.add_argument('--stride', type=int, default=8, help='stride of the feature maps')
    parser.set_defaults(run=_run_show_selection)

    parser = commands.add_parser(
        'show-transfer', help='draw features and attention of a distillation for one frame'
    )
    parser.add_argument('config', help='YAML file of the run')
    parser.add_argument('out', type=OutputFolder, help='folder for the PNG files')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='replace values of the file'
    )
    parser.add_argument('--stage', default='distil', help='name of the distillation stage')
    parser.add_argument('--frame', default='', help='id of a val frame; default: many objects')
    parser.add_argument('--level', default='', help='feature level; default: that of the losses')
    parser.set_defaults(run=_run_show_transfer)

    parser = commands.add_parser(
        'fresh-scorer',
        help='measure whether a new scorer separates the features of student and teacher',
    )
    parser.add_argument('config', help='YAML file of the run')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='replace values of the file'
    )
    parser.add_argument('--stage', default='distil', help='name of the distillation stage')
    parser.add_argument('--control', default='control', help='stage without a teacher')
    parser.add_argument('--frames', type=int, default=200, help='maximum number of val frames')
    parser.add_argument('--level', default='', help='feature level; default: that of asb or cpl')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:N')
    add_json_option(parser)
    parser.set_defaults(run=_run_fresh_scorer)


def _run_study(args: argparse.Namespace) -> None:
    config = study_config.load_study(args.config, tuple(args.overrides))
    table = Path(config.table)
    outputs = [table, table.with_suffix('.png')]
    outputs += comparisons.statistics_paths(table) if config.has_statistics else []
    for path in outputs:
        files.require_writable_file(path)
    if not args.table_only:
        files.require_writable_folder(config.out)
        with _sigterm_as_interrupt():
            study.run_study(config, args.jobs)
    rows = study_table.sort_rows(study.read_completed_rows(config), tuple(config.methods))
    if not rows:
        raise ConfigError(f'{table}: no finished run yet')
    study_table.check_evaluated_class(table, rows, config.judged)
    study_table.check_splits(table, rows, bool(config.judge))
    if config.tuning:
        chosen = study.chosen_candidates(config, rows)
        methods = tuple(config.methods)
        print(study_text.tuning_to_markdown(rows, methods, chosen, config.judged), end='\n\n')
    judged = study_table.judged_rows(rows)
    print(study_text.to_markdown(judged, config.judged, config.unit, config.baseline))
    for text in (
        side_tables.given_depth_to_markdown(judged, config.judged, config.unit),
        side_tables.gates_to_markdown(judged, config.unit),
    ):
        if text:
            print(f'\n{text}')
    if config.has_statistics:
        _print_statistics(config, judged)
    study_chart.plot_study(
        judged, config.judged, table.with_suffix('.png'), config.unit, config.baseline
    )
    print(f'chart: {table.with_suffix(".png")}')


def _print_statistics(config: study_config.StudyConfig, rows: Sequence[study_table.Row]) -> None:
    """Print differences and tests of a study, and write them next to its table."""
    results = comparisons.compare_methods(config, rows)
    print()
    print(study_text.statistics_to_markdown(results, config.judged, config.unit, config.reference))
    paths = comparisons.write_comparisons(results, Path(config.table))
    print(f'statistics: {", ".join(map(str, paths))}')


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as on Ctrl-C, so that child processes end, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_show_selection(args: argparse.Namespace) -> None:
    if Path(args.out).suffix != '.png':
        raise ConfigError(f'{args.out}: expected the path of a PNG file, ending in .png')
    plan = stages.load_stages(args.config, tuple(args.overrides))
    (config,) = stages.select_stages(plan, (args.stage,) if '' not in plan else ()).values()
    if args.frames < 1:
        raise ConfigError(f'--frames: expected at least 1, got {args.frames}')
    snapshot = selection.inspect_distillation(config, args.frames, args.stride)
    selection_chart.plot_snapshot(snapshot, Path(args.out))
    before, after = snapshot.mean_difference_before, snapshot.mean_difference_after
    print(
        f'{len(snapshot.object_weights.depth_m)} objects; mean affinity difference to the teacher'
        f' {before:.4f} before, {after:.4f} after distillation: {args.out}'
    )


def _run_show_transfer(args: argparse.Namespace) -> None:
    plan = stages.load_stages(args.config, tuple(args.overrides))
    (config,) = stages.select_stages(plan, (args.stage,) if '' not in plan else ()).values()
    results = transfer_pictures.draw_transfers(config, Path(args.out), args.frame, args.level)
    for name, why_not in results.items():
        path = Path(args.out) / name
        print(f'{path}: not drawn, {why_not}' if why_not else str(path))


def _run_fresh_scorer(args: argparse.Namespace) -> None:
    plan = stages.load_stages(args.config, tuple(args.overrides))
    names = (args.stage, args.control)
    chosen = stages.select_stages(plan, names)
    if args.frames < 4:
        raise ConfigError(f'--frames: expected at least 4, got {args.frames}')
    device = choose_device(args.device)
    config, control = (chosen[name] for name in names)
    features = frozen_features.freeze_features(config, control, args.frames, args.level, device)
    try:
        rows = fresh_scorer.measure_separation(features, fresh_scorer.ScorerTraining(), device)
    except ValueError as err:
        raise ConfigError(f'{config.out}: {err}') from err
    print(fresh_scorer.to_markdown(rows))
    write_json(args.json, [dataclasses.asdict(each) for each in rows])
