"""
The usual split of KITTI's training frames, of which the benchmark ships no list.

Chen et al., "3D Object Proposals for Accurate Object Class Detection" (NeurIPS 2015), split the
7481 frames into 3712 for training and 3769 for validation, such that no drive is in both. Results
that are published for "val" are on these.
"""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from stl_core import files
from stl_core.data.frame_source import DataError

NUM_TRAINING, NUM_TESTING = 7481, 7518
#: Bit i, most significant first: frame i is a training frame.
_TRAINING_BITS = (
    'kX7iJqpeU8if8b+Z3Ufx1XSm7ja+GPjEQqbjXljC3Af0kTyni7miTiYycoxCGZMIlgCGOOXh821ArvMgOaBOUWq2'
    'W3iWzDQn+vDvN8DHFcbSXofp2sflRVfxmi0zlFe4Ic39bQCHbt75JhXs+4Czua9qY01HxHM1pIlqFv7cQMmP6s3I'
    '3oDh5TwpRoVqoEIhDc7zBOIM7PkZFUKBoKKAD7SkfgfZ/4EtDSbr9DFC6f7Ga25oiU/a2vk6Prnmk5B6HYtrUrks'
    'gFNJ2iuqj2rdVQ3vR7mpCBics/GYbdNlUM/LFnmUNu91YEjjaTBTlzv+YCEwn158t4Qa4hdBqaPBwRUd9oSYqfDm'
    'LSZOBf48KRusp7ccvkczHulMld9yRMDGRc56lRMHstiXVA448+zEMx5d3JD/kO1WpBr2OQXC13HDFLId3AXy65Sl'
    'Mes624s50G3IKxAetQMpIvL+y5MxhNfEtjB7Ws/gK4BwttLzXL0mqAXtDTaKIM/tKA3MUFmOl15daMlV9Kg5Fbaa'
    '1KDtWsbNKRI2XsSvm2cvdlEVJMPPmswp8Frvn4KAB6mRT+4bewjdBgY8Xuo2Du5tGM9p9Hf/Mi1QaA/qssni8McH'
    '/KZk7X4PxKfHronnnVIl9cXLvvVnWRwpxYmrx2XlnpX1k5axX3UGD3vHFRsu6jdaiqZTILARBxTxAQdg/6Dn2Jjw'
    'V3qNDGb86RMIwopcpJ4UsT9GGb42MYT8wBmIZtVVuU8IiXn2sjwF8eKz3BlZovTvBtVZFXYGl4M+SCCHkIER1IQX'
    'NsUbPOR6dMg5uG7tB8Bmj7piXCvZNCTYQ5RN/WqRhJdYq1dRO5AcJQgd2PqxPxJ6QiuhhFRhMNi9+YnJkxWudeaG'
    'VrcPYiSLGBip/mkmi5j/8/r8yNuiE8OOEpS837zP62VVHmB5wzFB5w/bDryMT5NFczNqvsZDG/IuYg7bS/+8DZco'
    '58HL3i/0L3u0irHiiBCI6s9jbYuW2RfSixF+QJSAVZDEyeh6FM3BiNtvVleqOz2Nxdda7eM9dJ/eiQVcf7GfQ5fh'
    'xDKDdQejlofojjYPghHh/TEJhWseh0IzgLXypSsdGNUjx+HeExGujkdJ0NnwWvgOaaGbLgQSQ5CaUWRiTfMzppBU'
    '1RaSroLFm9tfHDWGV2uR6VppRGzAGc4yaqJUAi7W+Wpbwk8b2YE1FO/cElSrqS1U8lGOCGYF5HjsyI8sKD53rDA6'
    '4YqCYF2CWhtcQakA'
)


def kitti_split(name: str) -> tuple[str, ...]:
    """
    Return the frame ids of a split, in ascending order.

    :param name: train, val, trainval (of folder training) or test (of folder testing).
    :raises DataError: for another name.
    """
    packed = np.frombuffer(base64.b64decode(_TRAINING_BITS), np.uint8)
    is_training = np.unpackbits(packed)[:NUM_TRAINING].astype(bool)
    numbers = {
        'train': np.flatnonzero(is_training),
        'val': np.flatnonzero(~is_training),
        'trainval': np.arange(NUM_TRAINING),
        'test': np.arange(NUM_TESTING),
    }
    if name not in numbers:
        raise DataError(f'{name}: no split of KITTI; known: {", ".join(numbers)}')
    return tuple(f'{number:06d}' for number in numbers[name].tolist())


def write_splits(root: Path) -> dict[str, tuple[int, int]]:
    """
    Write ROOT/ImageSets/{train,val,trainval,test}.txt; existing files must have the same ids.

    :param root: folder with training/image_2, and testing/image_2 if the test frames are there.
    :return: {split: (number of ids, number of them without an image)}; test only with its frames.
    :raises DataError: if there is no training/image_2, if it has a frame that KITTI has not, or if
        a file of that name has other ids; nothing is written then.
    """
    counts, texts = {}, {}
    for name in ('train', 'val', 'trainval', 'test'):
        folder = root / ('testing' if name == 'test' else 'training') / 'image_2'
        if name == 'test' and not folder.is_dir():
            continue
        ids, images = kitti_split(name), _image_ids(folder)
        if name in ('trainval', 'test') and (odd := sorted(images.difference(ids))):
            raise DataError(f'{folder / odd[0]}: no frame of KITTI, whose ids end with {ids[-1]}')
        counts[name] = (len(ids), len(set(ids).difference(images)))
        path = root / 'ImageSets' / f'{name}.txt'
        if path.exists() and tuple(path.read_text().split()) != ids:
            raise DataError(f"{path}: has other ids than KITTI's {name}; move it away first")
        texts[path] = ''.join(f'{frame_id}\n' for frame_id in ids)
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        with files.atomic_file(path) as part:
            part.write_text(text)
    return counts


def _image_ids(folder: Path) -> set[str]:
    """Return the ids of the images in a folder; raise DataError if there are none."""
    ids = {path.stem for path in folder.glob('*')} if folder.is_dir() else set()
    if not ids:
        raise DataError(f"{folder}: no images; expected the folder image_2 of KITTI's benchmark")
    return ids
