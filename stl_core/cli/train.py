"""
`stl`: synthesize, depth-maps, train, study, evaluate, kitti-ap, predict and more.

Bad input ends with one line that names it and exit code 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stl_core.cli.output import _add_json, _write_json
from stl_core.evaluation import average_precision as evaluate
from stl_core.training import distributed as parallel
from stl_core.training import stages


def _add_train(commands: Any) -> None:
    parser = commands.add_parser('train', help='train a detector, or go on with a stopped run')
    parser.add_argument('config', help='YAML file')
    parser.add_argument(
        '--stage', action='append', default=[], help='only this one of its stages; may be repeated'
    )
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='on top of the file')
    _add_json(parser)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    chosen = stages.choose(stages.load(args.config, tuple(args.overrides)), tuple(args.stage))
    found = {}
    with parallel.processes(next(iter(chosen.values())).device):
        for name, each in chosen.items():
            metrics = stages.run(each)
            if not metrics:  # another process of this run judges, and tells
                continue
            if name:
                print(f'stage {name}')
            print(evaluate.table(metrics, ('AP40',)))
            print(f'student: {Path(each.out) / "student.safetensors"}')
            found[name] = metrics
    if len(found) > 1:
        print(f'curves: {stages.draw({name: chosen[name] for name in found})}')
    if found:
        _write_json(args.json, found.get('', found))
