"""File checks of a runtime that brings none of its own."""

from stl_core.inference.runtimes.interface import unreadable_file_fault


def test_empty_missing_and_undownloaded_files_are_faults(tmp_path):
    path = tmp_path / 'a.toy'
    assert unreadable_file_fault(path).startswith('not readable: ')
    path.write_bytes(b'')
    assert unreadable_file_fault(path) == 'not a model file (0 bytes)'
    path.write_text('version https://git-lfs.github.com/spec/v1\n')
    assert unreadable_file_fault(path) == 'not a model file (43 bytes)'
    path.write_text('<!doctype html>')
    assert unreadable_file_fault(path) == 'not a model file (15 bytes)'
    path.write_text('{}')
    assert unreadable_file_fault(path) == ''
