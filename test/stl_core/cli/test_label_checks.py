"""Commands refuse pictures, labels and projections that contradict each other; odd ones warn."""

import logging
from argparse import Namespace

import numpy as np
import pytest
import toy_detector
from kitti_scenes import P2
from label_sets import label_line, write_set

from stl_core.cli import main
from stl_core.cli.frame_options import list_images
from stl_core.data.sources import kitti
from stl_core.models import DETECTORS

CARS = [f'{label_line()}\n', f'{label_line(center_m=(-1.0, 0.5, 16.0))}\n']


@pytest.fixture
def student(tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, 'toy', toy_detector.ENTRY)
    return toy_detector.save_untrained(tmp_path / 'student.safetensors')


def run(capsys, *arguments):
    """Return exit code and the last line on stderr of a command."""
    try:
        main.main([str(each) for each in arguments])
    except SystemExit as err:
        return err.code, capsys.readouterr().err.strip().splitlines()[-1]
    return 0, ''


@pytest.mark.parametrize(
    ('P', 'message'),
    [
        (np.eye(3, 4), 'calib/000000.txt: P2 has focal lengths 1 and 1; expected pixels'),
        (np.diag([1 / 320, 1 / 96, 1]) @ P2, 'P2 has focal lengths 0.5625'),
        (P2.T.reshape(3, 4), 'P2 has the last row'),
        (P2 * [[1], [1], [0]], 'P2 has the last row 0 0 0 0'),
        (2 * P2, 'divide its 12 numbers by 2'),
        (
            np.diag([4.0, 4.0, 1.0]) @ P2,
            'principal point at 640 160, outside the picture of 320x96',
        ),
    ],
)
@pytest.mark.parametrize('command', ['predict', 'evaluate'])
def test_a_projection_that_is_no_camera_of_the_picture_is_refused(
    student, tmp_path, capsys, command, P, message
):
    root = write_set(tmp_path / 'set', CARS, P=P)
    out = ('--out', tmp_path / 'out') if command == 'predict' else ()
    code, line = run(capsys, command, student, root, *out)
    assert code == 2
    assert message in line
    assert not (tmp_path / 'out/results').exists()


def test_labels_of_other_pictures_are_refused_and_odd_ones_are_a_warning(
    student, tmp_path, capsys, caplog
):
    half = write_set(
        tmp_path / 'half', [f'{label_line(center_m=(4.0, 0.5, 12.0))}\n'], size=(200, 48)
    )
    code, line = run(capsys, 'evaluate', student, half)
    assert code == 2
    assert 'label_2/000000.txt:1: the 2D box ends at' in line
    odd = f'{label_line(size=(0.0, 1.6, 3.9), box=(9, 9, 40, 40))}\n'
    root = write_set(tmp_path / 'odd', [*CARS, odd])
    caplog.set_level(logging.WARNING)
    main.main(['evaluate', str(student), str(root)])
    assert f'warning: {root}/label_2/000002.txt:1: height width length 0 1.6 3.9' in caplog.text
    assert '1 of 3 labelled objects' in caplog.text


def test_kitti_ap_warns_of_labels_with_impossible_numbers(tmp_path, caplog):
    root = write_set(tmp_path / 'set', [CARS[0], f'\n{label_line(truncated=20)}\n'])
    (tmp_path / 'results').mkdir()
    for path in (root / 'label_2').iterdir():
        text = kitti.format_results(kitti.read_labels(path))
        (tmp_path / 'results' / path.name).write_text(text)
    caplog.set_level(logging.WARNING)
    main.main(['kitti-ap', str(root / 'label_2'), str(tmp_path / 'results')])
    (message,) = caplog.messages
    assert message == (
        f'warning: 1 of 2 labelled objects have impossible numbers: {root}/label_2/000001.txt:2:'
        ' truncated 20; expected a fraction, 0 to 1; is it in percent?'
    )


@pytest.mark.parametrize(
    'folder', ['training', 'extras/cropped_1224x370', 'extras/drive_0001_lowres']
)
def test_real_pictures_have_no_warning(mono3d_data, folder, tmp_path, caplog):
    """Whole, cropped and reduced pictures of KITTI."""
    if not (mono3d_data / folder).is_dir():
        pytest.skip(f'{mono3d_data / folder} is missing')
    args = Namespace(format='kitti', root=mono3d_data / folder, split=None)
    assert list_images(args, labelled=True)
    assert not caplog.messages
