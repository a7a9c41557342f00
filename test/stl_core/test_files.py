"""Atomic files and folders: after a crash or an error, the old content or the new content."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stl_core.files import atomic_file, atomic_folder, parent_folders, write_atomically

ROOT = Path(__file__).resolve().parents[2]
#: A process that is killed in the middle of writing a file or folder.
CRASH = """
import os, signal, sys
from pathlib import Path
from stl_core.files import atomic_file, atomic_folder
with {function}(Path({path!r})) as part:
    file = part / 'new' if part.is_dir() else part
    file.write_text('half')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def crash(function, path):
    code = CRASH.format(function=function, path=str(path))
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    assert subprocess.run([sys.executable, '-c', code], env=env).returncode == -signal.SIGKILL


def write_and_fail(output, error):
    """Write half of a file in a context manager, then raise the error."""
    with output as part:
        file = part / 'new' if part.is_dir() else part
        file.write_text('half')
        raise error


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Set the process's umask to 077 and restore it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize('sync', [True, False])
def test_a_file_is_replaced_at_the_end_of_the_with_statement(tmp_path, sync):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with atomic_file(str(path), sync) as part:
        part.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file_and_removes_the_part(tmp_path, error):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(error):
        write_and_fail(atomic_file(path), error)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_keeps_the_old_file_and_the_next_write_succeeds(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    crash('atomic_file', path)
    assert path.read_text() == 'old'
    write_atomically(path, b'new')
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_its_writer_gave_it(tmp_path, umask):
    write_atomically(tmp_path / 'default', b'')
    with atomic_file(tmp_path / 'shared') as part:
        part.write_bytes(b'')
        part.chmod(0o644)
    assert mode(tmp_path / 'default') == 0o600
    assert mode(tmp_path / 'shared') == 0o644


def test_a_folder_appears_complete_with_its_parents_and_all_may_read_it(tmp_path, umask):
    path = tmp_path / 'parent' / 'out'
    with atomic_folder(path) as folder:
        (folder / 'new').write_text('new')
        assert folder.name == 'out'
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    assert [each.name for each in path.iterdir()] == ['new']
    assert mode(path) == 0o755


def test_a_caller_may_create_the_folder(tmp_path):
    with atomic_folder(tmp_path / 'out', create=False) as folder:
        assert not folder.exists()
        folder.mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / 'out']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_error_leaves_no_folder(tmp_path, error):
    with pytest.raises(error):
        write_and_fail(atomic_folder(tmp_path / 'out'), error)
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_no_folder_of_that_name(tmp_path):
    crash('atomic_folder', tmp_path / 'out')
    assert all(each.name.startswith('.out.') for each in tmp_path.iterdir())


def write_twice(path, content):
    """Create a folder with content, then fail because it exists."""
    write_folder(path, content)
    path.mkdir()


def write_folder(path, content):
    path.mkdir()
    for name in content:
        (path / name).touch()


@pytest.mark.parametrize('content', [[], ['other']])
def test_a_folder_never_replaces_one_that_appears_meanwhile(tmp_path, content):
    path = tmp_path / 'out'
    with pytest.raises(FileExistsError, match='out: exists already'), atomic_folder(path):
        write_folder(path, content)
    assert [each.name for each in path.iterdir()] == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_folder_is_refused_at_the_start(tmp_path):
    with (
        pytest.raises(FileExistsError, match=f'{tmp_path.name}: exists already'),
        atomic_folder(tmp_path),
    ):
        pytest.fail('entered')
    assert not list(tmp_path.iterdir())


def test_an_error_removes_the_parents_that_were_created_and_are_empty(tmp_path):
    (tmp_path / 'old').mkdir()
    for path in (tmp_path / 'old/a/b/out', tmp_path / 'old/out'):
        with pytest.raises(ValueError, match='other'):
            write_and_fail(atomic_folder(path), ValueError('other'))
        assert not list((tmp_path / 'old').iterdir())
    path = tmp_path / 'a/b/out'
    with pytest.raises(FileExistsError), parent_folders(path):
        path.parent.mkdir()  # fails: it is created already
    assert not (tmp_path / 'a').exists()
    with pytest.raises(FileExistsError), parent_folders(path):
        write_twice(path, ['kept'])
    assert [each.name for each in path.iterdir()] == ['kept']
