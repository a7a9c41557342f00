import pytest
from toy_study import replace_training


@pytest.fixture
def trained(monkeypatch):
    """Replace training: AP is the seed, plus ten with a teacher; returns the folders of runs."""
    return replace_training(monkeypatch, lambda config: config.seed + 10.0 * bool(config.distill))
