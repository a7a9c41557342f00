"""Whether the processor has the type that a network is to compute in."""

import pytest
import torch

from stl_core.tensors.precision import is_bf16_emulated


@pytest.mark.parametrize(
    ('flags', 'precision', 'device', 'told'),
    [
        ('avx512f avx512_bf16 amx', 'bf16', 'cpu', False),
        ('fp asimd bf16 i8mm', 'bf16', 'cpu', False),
        ('avx2 fma', 'bf16', 'cpu', True),
        ('avx2 fma', 'fp32', 'cpu', False),
        ('avx2 fma', 'bf16', 'cuda', False),
    ],
)
def test_a_processor_without_bf16_is_told(tmp_path, flags, precision, device, told):
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text(f'flags\t\t: {flags}\n')
    assert is_bf16_emulated(precision, torch.device(device), cpuinfo) == told


def test_where_nothing_is_known_nothing_is_told(tmp_path):
    assert not is_bf16_emulated('bf16', torch.device('cpu'), tmp_path / 'cpuinfo')
