"""Load the networks and the unseen frames of a finished distillation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stl_core.data import augmentation, dataset
from stl_core.distill.distiller import Distiller
from stl_core.training import checkpoint, model_builder
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.training.run.run_files import read_checkpoint


def load_distiller(resolved: ResolvedConfig, path: Path, *, start: bool = False) -> Distiller:
    """
    Load the student, the teacher and the layers between them from a checkpoint, in eval mode.

    :param resolved: configuration of the run.
    :param path: last.pt of the run.
    :param start: load the student as it was before the distillation, beside the trained layers:
        through random layers, its features could not be compared with the teacher's.
    :raises ConfigError: for a run without teacher or checkpoint, and for a checkpoint of another
        configuration; only the val settings may differ.
    """
    if resolved.config.distill is None:
        raise ConfigError(f'{resolved.config.out}: not a distillation')
    if not path.exists():
        raise ConfigError(f'{path}: no such checkpoint; train this stage first')
    state = read_checkpoint(path)
    differ = checkpoint.config_differences(resolved, state['config'])
    differ = [key for key in differ if not key.startswith('val.')]
    if differ:
        raise ConfigError(f"{path}: made with another {', '.join(differ[:5])}; use that run's")
    torch.manual_seed(resolved.config.seed)
    model = model_builder.build_model(resolved)
    assert isinstance(model, Distiller), 'a run without teacher'
    student = {key: each.clone() for key, each in model.student.state_dict().items()}
    model.load_state_dict(state['model'])
    if start:
        model.student.load_state_dict(student)
    elif 'mean' in state:  # evaluation and model file use the averaged weights
        model.student.load_state_dict(state['mean']['module'])
    return model.eval()


def load_val_frames(resolved: ResolvedConfig) -> dataset.FrameDataset:
    """
    Open the val frames of a run, without augmentation.

    :raises ConfigError: for a run of a multi-view detector, whose samples are no single frames.
    """
    config = resolved.config
    if resolved.model_spec.multi_view:
        raise ConfigError(
            f'{config.out}: a multi-view run ({config.detector.name}); expected one of single'
            ' images'
        )
    no_augmentation = augmentation.Config(flip=0.0, crop=0.0, colour=0.0)
    return dataset.FrameDataset(
        replace(config.val, augment=no_augmentation, keep_images=False),
        config.input,
        config.classes,
        config.seed,
        resolved.image_loader,
        resolved.given_depth,
    )
