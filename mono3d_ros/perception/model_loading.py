"""Find, load and warm up the model that the parameters name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template

import numpy as np

from mono3d_ros.perception.pipeline import PredictorProtocol
from stl_core.inference.predictor import load_predictor

#: Folder in a package's share folder in which models are searched by bare name.
MODELS_FOLDER = 'models'
PACKAGE = 'mono3d_ros'
#: Folder of the models that come with this package, with or without colcon.
SHIPPED_MODELS = Path(__file__).parents[1] / MODELS_FOLDER

#: (path, device, precision) -> Predictor.
ModelLoader = Callable[[Path, str, str], PredictorProtocol]

#: Exceptions of a model that cannot be loaded or run.
LOAD_ERRORS = (ValueError, OSError, RuntimeError, ImportError, LookupError, TypeError)

#: Height and width of the warm-up image.
WARM_UP_HW = (384, 1280)


def find_model(
    model: str,
    get_share_directory: Callable[[str], str],
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """
    Find the model file that a parameter names.

    :param model: absolute, relative, with ~ or $VAR, package://PACKAGE/PATH, or a bare name
        among the models of this package.
    :param get_share_directory: package name -> its share folder; LookupError or OSError where
        there is none.
    :param environment: values of $VAR.
    :return: path of an existing file.
    :raises ValueError: with every path that was tried.
    """
    if not model:
        raise ValueError('parameter model is empty: give the path of a model file')
    if model.startswith('package://'):
        package, _, path = model[len('package://') :].partition('/')
        candidates = [_path_in_share(package, path, get_share_directory)]
    else:
        model_path = Path(Template(model).safe_substitute(environment)).expanduser()
        candidates = [model_path.absolute()]
        if len(model_path.parts) == 1:  # a name, not a path
            candidates.append(
                _path_in_share(PACKAGE, f'{MODELS_FOLDER}/{model_path}', get_share_directory)
            )
            candidates.append(SHIPPED_MODELS / model_path)
    for candidate in candidates:
        if isinstance(candidate, Path) and candidate.is_file():
            return candidate
    tried = ', '.join(str(candidate) for candidate in candidates)
    raise ValueError(f'parameter model: {model!r} not found; tried {tried}')


def load_model(path: Path, device: str, precision: str = 'fp32') -> PredictorProtocol:
    """
    Load a model file.

    The runtime of its suffix imports torch, or what it needs, only now, so that an invalid
    parameter fails immediately.

    :param path: the file.
    :param device: auto, cpu, cuda or cuda:N.
    :param precision: fp32, bf16 or fp16.
    :return: the predictor.
    :raises ValueError: for a file or device that cannot be used, or the file of a teacher.
    """
    predictor = load_predictor(path, device, precision=precision)
    if predictor.spec.input.depth is not None:
        raise ValueError(f'{path}: a teacher, which needs depth maps; expected a student')
    if predictor.spec.input.given_depth:
        raise ValueError(
            f'{path}: a privileged teacher, which is given depth of labels; expected a student'
        )
    return predictor


def warm_up(predictor: PredictorProtocol, max_images: int = 1) -> None:
    """
    Run on black images: the first run of each batch size allocates and is many times slower.

    :param predictor: the network.
    :param max_images: largest batch size; every size up to it is run.
    """
    height, width = WARM_UP_HW
    P = np.array([[width, 0.0, width / 2, 0.0], [0.0, width, height / 2, 0.0], [0, 0, 1, 0]])
    black = np.zeros((height, width, 3), np.uint8)
    for images in range(1, max_images + 1):
        predictor([black] * images, [P] * images)


def _path_in_share(
    package: str, path: str, get_share_directory: Callable[[str], str]
) -> Path | str:
    """Return a path in a package's share folder, or a text if the package is not installed."""
    try:
        return Path(get_share_directory(package)) / path
    except (LookupError, OSError):
        return f'package {package} (not installed)'
