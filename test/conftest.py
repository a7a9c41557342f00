import os
import signal
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    """Let tested programs have Ctrl-C: a shell starts background jobs with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def mono3d_data() -> Path:
    """Return the folder of real frames (research licence, never copied); skip if it is absent."""
    default = Path(__file__).resolve().parents[1] / '../shared/data'
    root = Path(os.environ.get('MONO3D_DATA', default))
    if not (root / 'training' / 'image_2').is_dir():
        pytest.skip(f'no real frames at {root}; set MONO3D_DATA')
    return root


@pytest.fixture(scope='module')
def one_thread():
    """Run with one torch thread: the order of sums, and so their bits, depends on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def model(tmp_path_factory) -> Path:
    """Return a model file for fake_node, which needs only its existence."""
    path = tmp_path_factory.mktemp('models') / 'student.safetensors'
    path.write_text('weights')
    return path
