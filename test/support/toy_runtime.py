"""
A runtime for `.toy` files: a JSON file with a header and the boxes that every image contains.

{"spec": header of a model file, "objects": {field of ImageObjects: list with one entry an object}}
"""

import json
from dataclasses import asdict

import numpy as np

from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.runtimes.interface import ModelFileError, Runtime
from stl_core.types import ImageObjects

#: Name of the device that every toy runs on.
DEVICE = 'toy:0'


class ToyRunner:
    """A network that returns the same objects for every canvas."""

    device = DEVICE

    def __init__(self, objects):
        self.objects = objects

    def __call__(self, canvases, P):
        assert canvases.dtype == np.uint8, 'the runner normalises, not its caller'
        assert P.shape == (len(canvases), 3, 4)
        return [self.objects] * len(canvases)


def load_spec(path):
    try:
        return ModelSpec.from_header(json.loads(path.read_text())['spec'])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ModelFileError(f'{path}: not a toy ({err})') from err


def load_runner(path, device, precision):
    columns = json.loads(path.read_text())['objects']
    return ToyRunner(ImageObjects(**{name: np.array(each) for name, each in columns.items()}))


def write_toy(path, spec, objects):
    columns = {name: each.tolist() for name, each in vars(objects).items()}
    path.write_text(json.dumps({'spec': asdict(spec), 'objects': columns}))
    return path


RUNTIME = Runtime(load_spec, load_runner)
