"""
Splits of a nuScenes database by scenes: the benchmark's own, or those of a file splits.json.

Scenes of the benchmark's splits are facts of nuScenes 1.0, here by number. A version's folder may
have a splits.json, {"NAME": ["scene name", ...]}, as the devkit reads since 1.2.0.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from stl_core.data.frame_source import DataError, read_text

#: Split -> end of the version's name, and the numbers of its scenes.
BENCHMARK_SPLITS = {
    'train': (
        'trainval',
        '1-2 4-11 19-34 41-76 120-135 138-139 149-152 154-155 157-168 170-185 187-188 '
        '190-196 199-200 202-204 206-214 218-220 222 224-264 283-306 315-318 321 323-324 '
        '328 347-386 388-403 405-408 410-459 461-465 467-469 471-472 474-480 499-502 '
        '504-515 517-518 525-539 541-546 566 568 570-578 580 582-600 639-679 681 683-689 '
        '695-698 700-701 703-719 726-728 730-731 733-741 744 746-747 749-752 757-765 '
        '767-769 786-787 789-792 803-806 808-813 815-817 819-822 847-856 858 860-866 '
        '868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-992 994-1025 '
        '1044-1058 1074-1102 1104-1110',
    ),
    'val': (
        'trainval',
        '3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 '
        '629-630 632-638 770-771 775 777-778 780-784 794-800 802 904-917 919-931 962-963 '
        '966-969 971-972 1059-1073',
    ),
    'test': (
        'test',
        '77-91 111-119 140 142-148 265-266 279-282 307-314 333-343 481-498 547-551 '
        '601-604 606-624 827-831 833-842 844-846 932-933 935-943 1026-1043',
    ),
    'mini_train': (
        'mini',
        '61 553 655 757 796 1077 1094 1100',
    ),
    'mini_val': (
        'mini',
        '103 916',
    ),
}


def split_scenes(folder: Path, split: str, scenes: Collection[str]) -> frozenset[str]:
    """
    Return the names of the scenes of a split.

    :param folder: the version's folder.
    :param split: name of the split.
    :param scenes: names of the scenes of the database.
    :raises DataError: for a split that this version does not have, listing those that it has, and
        one with a scene that the database lacks.
    """
    listed = _read_listed_splits(folder)
    known = {**benchmark_splits(folder.name), **listed}
    if split not in known:
        raise DataError(
            f'{folder}: no split {split!r}; this version has {", ".join(known) or "none"}'
        )
    lacking = sorted(known[split] - set(scenes))
    if lacking:
        raise DataError(
            f'{folder}/scene.json: {len(lacking)} of {len(known[split])} scenes of the split'
            f' {split!r} are missing, such as {lacking[0]}'
        )
    return known[split]


def benchmark_splits(version: str) -> dict[str, frozenset[str]]:
    """Return the benchmark's splits of a version, such as v1.0-mini, by name."""
    return {
        name: frozenset(f'scene-{number:04d}' for number in _numbers(ranges))
        for name, (ending, ranges) in BENCHMARK_SPLITS.items()
        if version.endswith(ending)
    }


def _numbers(ranges: str) -> list[int]:
    """Return the numbers of ranges such as '1-2 7'."""
    bounds = [[int(each) for each in part.split('-')] for part in ranges.split()]
    return [number for each in bounds for number in range(each[0], each[-1] + 1)]


def _read_listed_splits(folder: Path) -> dict[str, frozenset[str]]:
    path = folder / 'splits.json'
    if not path.exists():
        return {}
    try:
        data = json.loads(read_text(path, 'splits: scene names by split'))
        return {str(name): frozenset(map(str, scenes)) for name, scenes in data.items()}
    except (ValueError, AttributeError, TypeError) as err:
        if isinstance(err, DataError):
            raise
        raise DataError(f'{path}: expected {{"NAME": ["scene name", ...]}}') from err
