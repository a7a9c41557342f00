"""Detection of CPUs without native bf16."""

import pytest
import torch

from stl_core.tensors.precision import is_bf16_emulated


@pytest.mark.parametrize(
    ('flags', 'precision', 'device', 'expected'),
    [
        ('avx512f avx512_bf16 amx', 'bf16', 'cpu', False),
        ('fp asimd bf16 i8mm', 'bf16', 'cpu', False),
        ('avx2 fma', 'bf16', 'cpu', True),
        ('avx2 fma', 'fp32', 'cpu', False),
        ('avx2 fma', 'bf16', 'cuda', False),
    ],
)
def test_a_processor_without_bf16_emulates_it(tmp_path, flags, precision, device, expected):
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text(f'flags\t\t: {flags}\n')
    assert is_bf16_emulated(precision, torch.device(device), cpuinfo) == expected


def test_without_cpuinfo_no_emulation_is_assumed(tmp_path):
    assert not is_bf16_emulated('bf16', torch.device('cpu'), tmp_path / 'cpuinfo')
