"""Every reader, every kind of bad input: an error naming the file, or a warning with numbers."""

import logging
import re

import file_readers
import pytest
import ros_readers
from file_readers import KINDS

READERS = (*file_readers.READERS, *ros_readers.READERS)
EXPECTED_ERRORS = (*file_readers.EXPECTED_ERRORS, *ros_readers.EXPECTED_ERRORS)
CELLS = [(reader, kind) for reader in READERS for kind in KINDS]


@pytest.mark.parametrize('reader', READERS, ids=lambda reader: reader.name)
def test_a_good_file_brings_neither_error_nor_warning(reader, tmp_path, caplog):
    reader.good(tmp_path)
    with caplog.at_level(logging.WARNING):
        result = reader.read(tmp_path / reader.file)
    assert not caplog.messages
    assert not (isinstance(result, list) and result and isinstance(result[0], str))
    assert set(reader.faults) | {'missing'} == set(KINDS)


@pytest.mark.parametrize(
    ('reader', 'kind'), CELLS, ids=[f'{reader.name}-{kind}' for reader, kind in CELLS]
)
def test_no_bad_file_looks_like_a_good_one(reader, kind, tmp_path, caplog):
    fault = reader.faults.get(kind)
    if isinstance(fault, str):
        pytest.skip(f'{reader.name}, {kind}: cannot occur, or is no fault: {fault}')
    reader.good(tmp_path)
    path = tmp_path / reader.file
    if fault is None:
        path.unlink()
    else:
        path.write_bytes(fault(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        error, warnings = read_file(reader, path)
    if error is None:
        warnings += caplog.messages
        assert any(re.search(r'\d', each) for each in warnings), 'neither error nor warning'
    else:
        assert any(name in error for name in (path.name, *reader.named_by)), error
        assert '\n' not in error


def read_file(reader, path):
    """Read a file: the message of an expected error, and the warnings that are returned."""
    try:
        result = reader.read(path)
    except EXPECTED_ERRORS as err:
        return str(err), []
    texts = result if isinstance(result, list) else []
    return None, [each for each in texts if isinstance(each, str)]
