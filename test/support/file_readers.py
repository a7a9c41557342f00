"""
Every file that the programs read: a good example, and one fault of every kind.

A fault changes the bytes of the good file. Where a kind of fault cannot occur in a file, the entry
is a sentence that says why.
"""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import safetensors.numpy
import torch
from kitti_scenes import draw_frame
from small_detectors import SMALL

from stl_core.data import dataset, depth_checks, depth_maps, scan_file
from stl_core.data.frame_source import DataError, read_split
from stl_core.data.sources import kitti, kitti_calib, kitti_tracking
from stl_core.experiments import study_config, study_table
from stl_core.files import OutputError
from stl_core.inference import model_file
from stl_core.inference.converters import checkpoint_reader
from stl_core.inference.converters.key_mapping import WeightsError
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.preprocessing import InputSpec
from stl_core.training import checkpoint, stages
from stl_core.training.config import build_train_config
from stl_core.training.config_builder import ConfigError
from stl_core.training.run import object_counts

#: What a reader may raise; anything else is a fault of the reader.
EXPECTED_ERRORS = (
    *(DataError, ConfigError, ModelFileError, WeightsError, OutputError),
    checkpoint.CheckpointError,
)
KINDS = (
    *('missing', 'empty', 'truncated', 'foreign', 'wrong unit', 'wrong dtype', 'nan'),
    'out of range',
)
NO_UNIT = 'it has no numbers with a unit'
NO_NUMBERS = 'it has no numbers'
WHOLE_NUMBERS = 'its numbers are whole'

Change = Callable[[bytes], bytes]


class FileReader(NamedTuple):
    """
    A file that a program reads.

    :param name: name for the table.
    :param file: path of the file in the folder that `good` fills.
    :param good: writes a good file, and those that belong to it, into a folder.
    :param read: reads the file as the programs do: its syntax, and whether it is plausible.
    :param faults: a change of the good bytes for every kind of fault, or why it cannot occur.
    :param named_by: what else an error may name than the file.
    """

    name: str
    file: str
    good: Callable[[Path], None]
    read: Callable[[Path], object]
    faults: dict[str, Change | str]
    named_by: tuple[str, ...] = ()


def replaced(old, new):
    """Return a change that replaces text, which must be there."""

    def change(data):
        assert old.encode() in data, f'{old!r} is not in the good file'
        return data.replace(old.encode(), new.encode())

    return change


def file_with(name, data):
    """Return a function that writes one good file into a folder."""

    def good(folder):
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return good


def half(data):
    return data[: len(data) // 2]


def half_of_a_line(data):
    """Cut text within its last line, so that no line before it is malformed."""
    return data.rstrip()[: -len(data.rstrip().splitlines()[-1]) // 2]


def png(pixels):
    return cv2.imencode('.png', pixels)[1].tobytes()


def another_picture(data):
    return png(np.zeros((8, 8, 3), np.uint8))


def text_file(data):
    return b'<!DOCTYPE html><html><body>404: not found</body></html>\n' * 4


TEXT = {'empty': lambda data: b'', 'truncated': half_of_a_line, 'foreign': another_picture}
BINARY = {'empty': lambda data: b'', 'truncated': half, 'foreign': text_file}


# ---- a frame in KITTI's layout, read as at the start of a training


def make_scene(folder):
    for name in ('image_2', 'calib', 'label_2'):
        (folder / name).mkdir(parents=True)
    draw_frame(folder, '000002', 2)


def count_scene(path):
    """Read a frame and count the objects that a training would teach, as its start does."""
    root = path.parent.parent
    names = ('image_2', 'calib', 'label_2')
    source = {name: str(root / name) for name in names}
    data = {'classes': ['Car'], 'train': {'sources': [source]}, 'val': {'sources': [source]}}
    config = build_train_config(data)
    frames = dataset.FrameDataset(config.train, InputSpec(160, 64), config.classes, 0)
    frames.images[0].pixels.read()
    return object_counts.check_objects(config, frames, [frames.images], True)


def in_columns(first, last, function):
    """Return a change of the numbers in some columns of every line."""

    def change(data):
        lines = []
        for line in data.decode().splitlines():
            fields = line.split()
            fields[first:last] = [str(function(float(field))) for field in fields[first:last]]
            lines.append(' '.join(fields) + '\n')
        return ''.join(lines).encode()

    return change


LABELS = {
    **TEXT,
    'wrong unit': in_columns(8, 14, lambda x: x * 100),  # centimetres
    'wrong dtype': in_columns(8, 9, lambda x: 'high'),
    'nan': in_columns(13, 14, lambda x: 'nan'),
    'out of range': in_columns(8, 11, lambda x: -x),
}
VELO = 'Tr_velo_to_cam: 0 -1 0 0.1 0 0 -1 0.2 1 0 0 0.3\n'
CALIB = {
    **TEXT,
    'wrong unit': lambda data: b'P2: 0.58 0 0.49 0.02 0 1.93 0.46 0 0 0 1 0\n',  # image sizes
    'wrong dtype': replaced('180', 'f'),
    'nan': replaced('180', 'nan'),
    'out of range': replaced('180', '-180'),
}

# ---- scans and depth


def read_scan(path):
    calib = kitti_calib.read_calib(path.with_suffix('.txt'))
    cam_T_velo = kitti_calib.require_lidar_pose(calib, path.with_suffix('.txt'))
    return depth_maps.velo_to_camera(scan_file.read_velodyne(path), cam_T_velo)


def scan_points():
    """A wall 20 m ahead, ground and walls at the sides, as seen by 32 beams: (N, 4) float32."""
    elevation, azimuth = np.radians(np.linspace(2, -20, 32)), np.radians(np.arange(-44.7, 45, 0.5))
    e, a = np.meshgrid(elevation, azimuth, indexing='ij')
    ray = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    limits = np.array([20.0, 8.0, 1.7]) / np.maximum(np.abs(ray), 1e-6)
    points = ray * limits.min(-1)[..., None]
    return np.concatenate([points, 0.3 + 0.1 * np.sin(40 * a)[..., None]], -1).reshape(-1, 4)


def make_scan(folder):
    (folder / '000000.bin').write_bytes(scan_points().astype(np.float32).tobytes())
    (folder / '000000.txt').write_text(f'P2: 180 0 160 9 0 180 40 0.1 0 0 1 0.003\n{VELO}')


def as_points(change):
    return lambda data: change(np.frombuffer(data, np.float32).reshape(-1, 4)).tobytes()


def read_depth_map(path):
    depth_m = depth_maps.read_depth(path)
    return depth_checks.depth_warnings(
        depth_checks.summarize_depth([depth_checks.FrameDepth('0', *depth_statistics(depth_m))])
    )


def depth_statistics(depth_m):
    known = depth_m[depth_m > 0]
    quantiles = np.quantile(known, (0.05, 0.5, 0.95)) if len(known) else np.zeros(3)
    return len(known) / depth_m.size, tuple(quantiles)


def coded_depth(values, dtype=np.uint16):
    return lambda data: png(np.full((96, 320), values, dtype))


# ---- models and checkpoints

SPEC = ModelSpec(
    detector='monodle',
    options=SMALL['monodle'],
    classes=('Car', 'Pedestrian', 'Cyclist'),
    input=InputSpec(160, 64),
)


def make_model(folder):
    model_file.save_model(folder / 'a.safetensors', model_file.build_detector(SPEC), SPEC)


def read_model(path):
    return model_file.load_detector(path, model_file.read_model_spec(path))


def with_tensors(change):
    """Return a change of the tensors of a model file, {name: array}; its header stays."""

    def apply(data):
        header = json.loads(data[8 : 8 + struct.unpack('<Q', data[:8])[0]])
        tensors = {name: np.array(each) for name, each in safetensors.numpy.load(data).items()}
        return safetensors.numpy.save(change(tensors), header['__metadata__'])

    return apply


def map_values(change):
    return lambda tensors: {name: change(value) for name, value in tensors.items()}


def with_header(change):
    """Return a change of the header of a model file, plain data; its tensors stay."""

    def apply(data):
        header = json.loads(data[8 : 8 + struct.unpack('<Q', data[:8])[0]])
        key, text = next(iter(header['__metadata__'].items()))
        return safetensors.numpy.save(
            safetensors.numpy.load(data), {key: json.dumps(change(json.loads(text)))}
        )

    return apply


def torch_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


STATE = {'model_state': {'layer.weight': torch.zeros(2, 2)}}

# ---- configurations and tables

RUN = 'epochs: 3\ndetector: {name: monodle}\noptim: {lr: 1.0e-3, warmup_epochs: 1.0}\nseed: 1\n'
STUDY = 'plan: a.yaml\nstage: distil\nseeds: [1, 2]\nout: a\ntable: a.csv\nmethods: {base: {}}\n'
TABLE = (
    'method,seed,epochs,config,judged,3d/strict/easy\n'
    'base,1,12,5628dc75e7b8,Car,1.1871\nbase,2,12,5628dc75e7b9,Car,1.25\n'
)
TRACKS = ''.join(
    f'{frame} 7 Car 0 0 -1.5 120 40 160 60 1.5 1.6 3.9 1 2 15 0.1\n' for frame in range(3)
)
POSES = ''.join(f'1 0 0 {x} 0 1 0 0 0 0 1 {x}\n' for x in range(3))
OXTS = ''.join(
    ' '.join(map(str, (49.0 + 1e-6 * i, 8.4, 112.0, 0.01, 0.02, 1.5, *[0.1] * 24))) + '\n'
    for i in range(3)
)

READERS = (
    FileReader(
        'labels',
        'label_2/000002.txt',
        make_scene,
        count_scene,
        LABELS,
        ('no labelled object in 1',),
    ),
    FileReader('calib', 'calib/000002.txt', make_scene, count_scene, CALIB),
    FileReader(
        'picture',
        'image_2/000002.png',
        make_scene,
        count_scene,
        {
            **BINARY,
            'wrong unit': NO_UNIT,
            'wrong dtype': 'any PNG or JPEG is decoded to 8 bits',
            'nan': WHOLE_NUMBERS,
            'out of range': lambda data: png(np.zeros((8, 8, 3), np.uint8)),  # P2 is of another
        },
        ('image_2: no .png', 'outside the picture of 8x8'),
    ),
    FileReader(
        'results',
        '000000.txt',
        file_with('000000.txt', 'Car -1 -1 -1.5 120 40 160 60 1.5 1.6 3.9 1 2 15 0.1 0.9\n' * 2),
        kitti.read_results,
        {
            **TEXT,
            'empty': 'a frame in which nothing was found has an empty file',
            'wrong unit': 'results are scored as they are: AP shows it',
            'wrong dtype': replaced('0.9', 'sure'),
            'nan': replaced('0.9', 'nan'),
            'out of range': 'results are scored as they are: AP shows it',
        },
    ),
    FileReader(
        'split',
        'train.txt',
        file_with('train.txt', '000000\n000001\n'),
        read_split,
        {
            **TEXT,
            'truncated': 'its ids are those that are left; an id cut in two is missing',
            'wrong unit': NO_UNIT,
            'wrong dtype': 'an id may be any word; a frame that is missing is an error',
            'nan': NO_NUMBERS,
            'out of range': 'an id may be any word; a frame that is missing is an error',
        },
    ),
    FileReader(
        'scan',
        '000000.bin',
        make_scan,
        read_scan,
        {
            **BINARY,
            'truncated': lambda data: data[:-7],
            'wrong unit': as_points(lambda points: points * np.float32(1000)),
            'wrong dtype': as_points(lambda points: points.astype(np.float64)),
            'nan': as_points(lambda points: np.full_like(points, np.nan)),
            'out of range': as_points(lambda points: points * np.float32(1e8)),
        },
    ),
    FileReader(
        "scan's calib",
        '000000.txt',
        make_scan,
        lambda path: read_scan(path.with_suffix('.bin')),
        {
            **TEXT,
            'truncated': half,
            'wrong unit': 'a translation in another unit shows in depth at the labels',
            'wrong dtype': replaced('-1', 'minus'),
            'nan': replaced('-1', 'nan'),
            'out of range': replaced('-1', '9'),
        },
    ),
    FileReader(
        'depth map',
        '000000.png',
        file_with('000000.png', png(np.full((96, 320), 12 * 256, np.uint16))),
        read_depth_map,
        {
            **BINARY,
            'wrong unit': coded_depth(100),  # decimetres
            'wrong dtype': coded_depth(12, np.uint8),
            'nan': WHOLE_NUMBERS,
            'out of range': coded_depth(0),
        },
        ('in any of 1 depth maps',),
    ),
    FileReader(
        'tracking labels',
        '0000.txt',
        file_with('0000.txt', TRACKS),
        kitti_tracking.read_tracks,
        {
            **TEXT,
            'empty': 'a drive without objects has an empty file',
            'wrong unit': 'tracks go into bags as they are',
            'wrong dtype': replaced('1 7 Car', 'one 7 Car'),
            'nan': replaced('15 0.1', '15 nan'),
            'out of range': replaced('2 7 Car', '-2 7 Car'),
        },
    ),
    FileReader(
        'poses',
        '0000.txt',
        file_with('0000.txt', POSES),
        kitti_tracking.read_poses,
        {
            **TEXT,
            'wrong unit': 'a way in another unit is a way',
            'wrong dtype': replaced('1 0 0 2', '1 0 0 two'),
            'nan': replaced('1 0 0 2', '1 0 0 nan'),
            'out of range': replaced('1 0 0 2', '9 0 0 2'),
        },
    ),
    FileReader(
        'oxts',
        '0000.txt',
        file_with('0000.txt', OXTS),
        kitti_tracking.read_oxts,
        {
            **TEXT,
            'wrong unit': replaced('49.000001', '0.855'),  # radians: 5000 km from the row before
            'wrong dtype': replaced('8.4', 'east'),
            'nan': replaced('8.4', 'nan'),
            'out of range': replaced('49.0', '149.0'),
        },
    ),
    FileReader(
        'run configuration',
        'a.yaml',
        file_with('a.yaml', RUN),
        stages.load_stages,
        {
            **TEXT,
            'empty': 'every key has a default',
            'truncated': lambda data: data[: data.index(b'}')],
            'wrong unit': NO_UNIT,
            'wrong dtype': replaced('epochs: 3', 'epochs: three'),
            'nan': replaced('1.0e-3', '.nan'),
            'out of range': replaced('epochs: 3', 'epochs: -3'),
        },
    ),
    FileReader(
        'study',
        'a.yaml',
        file_with('a.yaml', STUDY),
        study_config.load_study,
        {
            **TEXT,
            'truncated': half,
            'wrong unit': NO_UNIT,
            'wrong dtype': replaced('[1, 2]', 'many'),
            'nan': replaced('[1, 2]', '[.nan, 2]'),
            'out of range': replaced('[1, 2]', '[1, 1]'),
        },
    ),
    FileReader(
        "study's table",
        'a.csv',
        file_with('a.csv', TABLE),
        study_table.read_table,
        {
            **TEXT,
            'missing': 'a study without a table begins one',
            'empty': 'a study without rows begins one',
            'truncated': 'the last line, cut by a crash, is trained again',
            'wrong unit': NO_UNIT,
            'wrong dtype': replaced('base,2', 'base,two'),
            'nan': replaced('1.25', 'nan'),
            'out of range': replaced('base,2', 'base,1'),
        },
    ),
    FileReader(
        'model file',
        'a.safetensors',
        make_model,
        read_model,
        {
            **BINARY,
            'wrong unit': NO_UNIT,
            'wrong dtype': with_tensors(map_values(lambda x: x.astype(np.int32))),
            'nan': with_tensors(map_values(lambda x: np.full_like(x, np.nan) if x.ndim else x)),
            'out of range': with_header(lambda header: {**header, 'classes': ['Car']}),
        },
    ),
    FileReader(
        'published checkpoint',
        'a.pth',
        file_with('a.pth', torch_bytes(STATE)),
        checkpoint_reader.read_state_dict,
        {
            **BINARY,
            'wrong unit': NO_UNIT,
            'wrong dtype': lambda data: torch_bytes({'model_state': {'layer.weight': 'abc'}}),
            'nan': lambda data: torch_bytes({'model_state': {'w': torch.full((2, 2), np.nan)}}),
            'out of range': lambda data: torch_bytes([1, 2, 3]),
        },
    ),
)
