"""
The network that the parameters name: finding its file, loading it, running it for the first time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from mono3d_ros.perception.pipeline import PredictorProtocol

#: Where in a package's share folder models are looked for by bare name.
MODELS_FOLDER = 'models'
PACKAGE = 'mono3d_ros'
#: The students that come with this package, colcon or not.
SHIPPED_MODELS = Path(__file__).parents[1] / MODELS_FOLDER

#: (path, device, precision) -> Predictor.
ModelLoader = Callable[[Path, str, str], PredictorProtocol]

#: What a network or its file may fail with when it is loaded or first run.
LOAD_ERRORS = (ValueError, OSError, RuntimeError, ImportError, LookupError, TypeError)

#: Size of the picture that warms the network up.
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
    :param environment: what $VAR stands for.
    :return: an existing file.
    :raises ValueError: naming every place that was tried.
    """
    if not model:
        raise ValueError('parameter model is empty: give the path of a student file')
    if model.startswith('package://'):
        package, _, path = model[len('package://') :].partition('/')
        places = [_path_in_share(package, path, get_share_directory)]
    else:
        given = Path(Template(model).safe_substitute(environment)).expanduser()
        places = [given.absolute()]
        if len(given.parts) == 1:  # a name, not a path
            places.append(_path_in_share(PACKAGE, f'{MODELS_FOLDER}/{given}', get_share_directory))
            places.append(SHIPPED_MODELS / given)
    for place in places:
        if isinstance(place, Path) and place.is_file():
            return place
    tried = ', '.join(str(place) for place in places)
    raise ValueError(f'parameter model: {model!r} not found; tried {tried}')


def load_model(path: Path, device: str, precision: str = 'fp32') -> PredictorProtocol:
    """
    Load a student file.

    torch is imported here and not before, so that a wrong parameter is told at once.

    :param path: the file.
    :param device: auto, cpu, cuda or cuda:N.
    :param precision: fp32, bf16 or fp16.
    :raises ValueError: for a file or device that cannot be used, or a teacher's file.
    """
    from stl_core.inference.predictor import load_predictor

    predictor = load_predictor(path, device, precision=precision)
    if predictor.spec.input.depth is not None:
        raise ValueError(f'{path}: a teacher, which sees depth; expected a student')
    return predictor


def predictor_device(predictor: PredictorProtocol) -> str:
    """Tell where a predictor computes; runners without a device of their own use the CPU."""
    runner: Any = getattr(predictor, 'forward_fn', None)
    return str(getattr(runner, 'device', 'cpu'))


def warm_up(predictor: PredictorProtocol, max_images: int = 1) -> None:
    """
    Run on black pictures: the first run of each batch size allocates and is many times slower.

    :param predictor: the network.
    :param max_images: of one batch; every size up to that is run.
    """
    height, width = WARM_UP_HW
    P = np.array([[width, 0.0, width / 2, 0.0], [0.0, width, height / 2, 0.0], [0, 0, 1, 0]])
    black = np.zeros((height, width, 3), np.uint8)
    for images in range(1, max_images + 1):
        predictor([black] * images, [P] * images)


def _path_in_share(
    package: str, path: str, get_share_directory: Callable[[str], str]
) -> Path | str:
    """Return a path in a package's share folder, or why there is none."""
    try:
        return Path(get_share_directory(package)) / path
    except (LookupError, OSError):
        return f'package {package} (not installed)'
