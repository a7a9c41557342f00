"""The command `stl train`: train a detector, or all stages of a multi-stage run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.cli.output import add_json_option, write_json
from stl_core.training import distributed, stages
from stl_core.training.checkpoint import ResumeOptions
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config


def add_train_command(commands: Any) -> None:
    """Add `stl train`."""
    parser = commands.add_parser('train', help='train a detector, or resume a stopped run')
    parser.add_argument('config', help='YAML file of the run')
    parser.add_argument(
        '--stage', action='append', default=[], help='run only this stage; may be repeated'
    )
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='replace values of the file'
    )
    parser.add_argument(
        '--extend',
        action='store_true',
        help='continue a run to more epochs= than it was made for, from its last checkpoint; the'
        ' learning rate of the added epochs follows half a cosine, without warm-up',
    )
    parser.add_argument(
        '--extend-lr',
        type=float,
        metavar='LR',
        help='learning rate at the start of the added epochs (default: a tenth of optim.lr)',
    )
    parser.add_argument(
        '--accept-data',
        action='store_true',
        help='resume although ids, labels, calibration or files of the data set have changed',
    )
    add_json_option(parser)
    parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> None:
    selected = stages.select_stages(
        stages.load_stages(args.config, tuple(args.overrides)), tuple(args.stage)
    )
    if args.extend_lr is not None and not args.extend:
        raise ConfigError('--extend-lr: requires --extend')
    options = ResumeOptions(args.extend, args.extend_lr, args.accept_data)
    for each in selected.values():
        files.require_writable_folder(each.out)
    results_by_stage = {}
    with distributed.process_group(next(iter(selected.values())).device):
        for name, each in selected.items():
            results = stages.run_stage(resolve_config(each), options)
            if results is None:  # rank 0 of this run prints the metrics
                continue
            if name:
                print(f'stage {name}')
            print(results.format_table())
            print(f'model: {Path(each.out) / "student.safetensors"}')
            results_by_stage[name] = results
    if len(results_by_stage) > 1:
        finished = {name: selected[name] for name in results_by_stage}
        print(f'curves: {stages.plot_stage_losses(finished)}')
    if results_by_stage:
        by_stage = {name: each.to_json() for name, each in results_by_stage.items()}
        write_json(args.json, by_stage.get('', by_stage))
