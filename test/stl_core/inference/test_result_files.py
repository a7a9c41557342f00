"""Result files of frames whose ids are not KITTI's."""

from dataclasses import dataclass

import numpy as np

from stl_core.inference.result_files import FRAME_IDS, write_result_files
from stl_core.types import Labels


@dataclass
class Frame:
    id: str


def a_car():
    return Labels(
        name=np.array(['Car']),
        truncated=np.zeros(1),
        occluded=np.zeros(1),
        alpha=np.zeros(1),
        score=np.ones(1),
        center_m=np.array([[0.0, 1.0, 20.0]]),
        size_hwl_m=np.ones((1, 3)),
        rotation_y=np.zeros(1),
        box_px=np.array([[0.0, 0.0, 9.0, 30.0]]),
    )


def stems(folder):
    return sorted(path.stem for path in folder.glob('*.txt'))


def test_a_second_write_removes_the_files_of_other_ids(tmp_path):
    (tmp_path / 'notes.txt').write_text('')
    for ids in (('drive-0-left', 'drive-0-right'), ('drive-0-right', 'drive-1-left')):
        write_result_files(tmp_path, [Frame(name) for name in ids], [a_car()] * 2)
        assert stems(tmp_path) == [*ids, 'notes']
    nothing = a_car()[np.zeros(1, bool)]
    write_result_files(tmp_path, [Frame('drive-1-left')], [nothing])
    assert stems(tmp_path) == ['drive-1-left', 'notes']
    write_result_files(tmp_path, [Frame('000007')], [a_car()])
    assert stems(tmp_path) == ['000007', 'notes']
    assert not (tmp_path / FRAME_IDS).exists()
