"""Toy studies: a plan without data, and training that is replaced by a formula for its AP."""

import yaml

from stl_core.evaluation.metrics import results_from_json
from stl_core.experiments import study_config, study_table
from stl_core.experiments.report import study_text
from stl_core.training import resolved_config, stages, trainer


def a_plan(tmp_path, **distil):
    plan = {
        'weights': {},
        'epochs': 2,
        'eval_every': 0,
        'stages': {
            'teacher': {'out': 'x/teacher', 'input': {'depth': {}}},
            'distil': {
                'out': 'x/distil',
                'distill': {
                    'teacher': 'x/teacher',
                    'losses': {'feature': {}},
                    'layers': {'width': 16},
                },
                'weights': {'distill/feature': 1.0},
                **distil,
            },
        },
    }
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(plan, sort_keys=False))
    return study_config.StudyConfig(
        plan=str(tmp_path / 'plan.yaml'),
        stage='distil',
        methods={
            'base': None,
            'selective': {
                'distill': {'losses': {'relation': {'cells': 5}}},
                'weights': {'distill/relation': 3.0},
            },
        },
        seeds=(4, 5),
        out=str(tmp_path / 'runs'),
        table=str(tmp_path / 'table.csv'),
    )


def resolve_without_files(config):
    spec = resolved_config._model_spec(config)
    return resolved_config.ResolvedConfig(
        config, spec, spec if config.start else None, spec if config.distill else None
    )


def a_row(method, seed, value, split=''):
    metrics = dict.fromkeys(study_text.DISPLAYED_METRICS, value)
    return study_table.Row(method, seed, 2, 'x', metrics, split=split)


def replace_training(monkeypatch, figure):
    """Replace training by figure(config), the strict AP; return the folders of runs, in order."""
    done = []

    def fit(resolved):
        done.append(resolved.config.out)
        value = figure(resolved.config)
        levels = {'strict': [0.0, value, 0.0], 'loose': [0.0, 2 * value, 0.0]}
        return results_from_json({'Car': {kind: {'AP40': levels} for kind in ('3d', 'bev')}})

    monkeypatch.setattr(trainer, 'fit', fit)
    monkeypatch.setattr(stages, 'run_stage', fit)
    monkeypatch.setattr(resolved_config, 'resolve_config', resolve_without_files)
    monkeypatch.setattr(resolved_config, 'with_file_digests', lambda config: config)
    return done


def a_plan_of_teachers(tmp_path, **changes):
    """
    A study of replicates whose methods vary three stages.

    The plan has four earlier stages: `teacher`, `base`, the privileged teacher `given` that starts
    from the base, and `unused`, on which no method builds.
    """
    distil = {
        'start': 'x/base/student.safetensors',
        'distill': {
            'teacher': 'x/teacher/student.safetensors',
            'losses': {'feature': {}},
            'layers': {'width': 16},
        },
        'weights': {'distill/feature': 2.0},
    }
    dk3d = {**distil, 'distill': {**distil['distill'], 'teacher': 'x/base/given/student.pt'}}
    plan = {
        'weights': {},
        'epochs': 2,
        'eval_every': 0,
        'seed': 99,
        'stages': {
            'teacher': {'out': 'x/teacher', 'input': {'depth': {}}},
            'unused': {'out': 'x/unused'},
            'base': {'out': 'x/base'},
            'given': {
                'out': 'x/base/given',
                'start': 'x/base/student.safetensors',
                'input': {'given_depth': 'objects'},
            },
            'distil': {'out': 'x/distil', **distil},
            'dk3d': {'out': 'x/dk3d', **dk3d},
            'control': {'out': 'x/control', 'start': 'x/base/student.safetensors'},
        },
    }
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(plan, sort_keys=False))
    config = {
        'plan': str(tmp_path / 'plan.yaml'),
        'stage': 'distil',
        'methods': {
            'control': {'stage': 'control'},
            'DK3D': {'stage': 'dk3d'},
            'relation': {
                'distill': {'losses': {'relation': {'cells': 5}}},
                'weights': {'distill/relation': 3.0},
            },
        },
        'replicates': (4, 5),
        'out': str(tmp_path / 'runs'),
        'table': str(tmp_path / 'table.csv'),
        **changes,
    }
    return study_config.StudyConfig(**config)
