import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope='session')
def mono3d_data() -> Path:
    """Real frames, licensed for research, read in place; skips where they are absent."""
    default = Path(__file__).resolve().parents[1] / '../shared/data'
    root = Path(os.environ.get('MONO3D_DATA', default))
    if not (root / 'training' / 'image_2').is_dir():
        pytest.skip(f'no real frames at {root}; set MONO3D_DATA')
    return root


@pytest.fixture(scope='module')
def one_thread():
    """Bit for bit holds for one number of threads: sums over more are in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def model(tmp_path_factory) -> Path:
    """A file for fake_node, which looks only whether it is there."""
    path = tmp_path_factory.mktemp('models') / 'student.safetensors'
    path.write_text('weights')
    return path
