"""
The command `stl train`: train a detector, or all stages of a multi-stage run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.cli.output import add_json_option, write_json
from stl_core.training import distributed, stages
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
    add_json_option(parser)
    parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> None:
    selected = stages.select_stages(
        stages.load_stages(args.config, tuple(args.overrides)), tuple(args.stage)
    )
    for each in selected.values():
        files.require_writable_folder(each.out)
    results_by_stage = {}
    with distributed.process_group(next(iter(selected.values())).device):
        for name, each in selected.items():
            results = stages.run_stage(resolve_config(each))
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
