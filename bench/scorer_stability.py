"""
Train a distillation with ASB with and without spectral norm and warm-up, and collect the curves.

python bench/scorer_stability.py PLAN.yaml OUT.csv [key=value ...] [--stage distil] [--seed 1 ...]:
runs the stage four times for each seed: as configured ('both'), with the scorer's convolutions as
they are ('no spectral norm'), with the full weight from the first step ('no warm-up'), and
'neither'. The runs are resumed and skipped as those of `stl train`; the plan's earlier stages must
be finished. OUT.csv has one line for each run and epoch: the scorer's accuracy and loss, the
student's losses, the gradient's norm and the skipped steps.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from stl_core import files
from stl_core.training import resolved_config, stages
from stl_core.training.config import TrainConfig

#: Overrides of each variant, below distill.losses.asb.
VARIANTS = {
    'both': (),
    'no spectral norm': ('spectral_norm=false',),
    'no warm-up': ('warmup=[0.0, 0.0]',),
    'neither': ('spectral_norm=false', 'warmup=[0.0, 0.0]'),
}
#: Column of OUT.csv: column of curves.csv.
COLUMNS = {
    'accuracy': 'metric/distill/asb/accuracy',
    'scorer_loss': 'distill/asb_scorer',
    'student_loss': 'distill/asb',
    'cpl': 'distill/cpl',
    'detection': 'det/depth',
    'grad_norm': 'grad_norm',
    'scorer_grad_norm': 'grad_norm/distill/asb/scorer',
    'skipped': 'skipped',
}


def main() -> None:
    """Run all variants and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('plan')
    parser.add_argument('out')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='overrides of the plan')
    parser.add_argument('--stage', default='distil')
    parser.add_argument('--seed', type=int, nargs='+', default=[1])
    args = parser.parse_args()
    rows: list[dict[str, str]] = []
    for seed in args.seed:
        for name in VARIANTS:
            config = variant(args.plan, tuple(args.overrides), args.stage, name, seed)
            stages.run_stage(resolved_config.resolve_config(config))
            rows += read_curves(Path(config.out), name, seed)
            # after each run: a stopped comparison leaves what it has
            files.write_atomically(Path(args.out), to_csv(rows).encode())
            print(f'{name}, seed {seed}: {rows[-1]}')


def variant(
    plan: str, overrides: tuple[str, ...], stage: str, name: str, seed: int
) -> TrainConfig:
    """Return the configuration of a variant, in a folder beside that of the plan's stage."""
    (planned,) = stages.select_stages(stages.load_stages(plan, overrides), (stage,)).values()
    if planned.distill is None or 'asb' not in planned.distill.losses:
        raise SystemExit(f'{plan}: {stage} is no distillation with the loss asb')
    key = f'stages.{stage}'
    changes = [f'{key}.distill.losses.asb.{each}' for each in VARIANTS[name]]
    out = f'{planned.out}_scorer/{name.replace(" ", "_")}/{seed}'
    changes += [f'{key}.out={out}', f'{key}.seed={seed}']
    return stages.load_stages(plan, (*overrides, *changes))[stage]


def read_curves(run: Path, name: str, seed: int) -> list[dict[str, str]]:
    """Return the rows of a finished run."""
    with (run / 'curves.csv').open(newline='') as file:
        curves = list(csv.DictReader(file))
    return [
        {
            'variant': name,
            'seed': str(seed),
            'epoch': row['epoch'],
            **{column: row.get(source, '') for column, source in COLUMNS.items()},
        }
        for row in curves
    ]


def to_csv(rows: list[dict[str, str]]) -> str:
    """Return rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == '__main__':
    main()
