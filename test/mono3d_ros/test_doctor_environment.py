"""Facts of `doctor` about files: models and installed commands."""

import json
import struct

from mono3d_ros.doctor.environment import check_model_files, read_command_interpreters


def write_model(folder, name, header, tail):
    text = json.dumps(header).encode()
    (folder / name).write_bytes(struct.pack('<Q', len(text)) + text + tail)


def test_sizes_of_model_files_are_checked(tmp_path):
    header = {'__metadata__': {}, 'w': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}
    write_model(tmp_path, 'a.safetensors', header, bytes(8))
    write_model(tmp_path, 'b.safetensors', header, bytes(3))
    (tmp_path / 'c.safetensors').write_text('version https://git-lfs.github.com/spec/v1\n')
    (tmp_path / 'd.safetensors').write_bytes(b'')
    write_model(tmp_path, 'e.safetensors', {'w': 1}, b'')
    assert list(check_model_files(tmp_path).values()) == [
        '',
        'truncated: 5 bytes are missing',
        'not a model file (43 bytes)',
        'not a model file (0 bytes)',
        'not a model file (16 bytes)',
    ]


def test_a_missing_folder_has_no_model_files(tmp_path):
    assert check_model_files(tmp_path / 'absent') == {}


def test_commands_are_read(tmp_path):
    folder = tmp_path / 'lib' / 'mono3d_ros'
    folder.mkdir(parents=True)
    (folder / 'detector').write_text('#!/opt/venv/bin/python3\nimport sys\n')
    assert read_command_interpreters([tmp_path]) == {
        str(folder / 'detector'): '/opt/venv/bin/python3'
    }
