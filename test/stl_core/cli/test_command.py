"""Exit codes and one-line errors that all commands share."""

import pytest

from stl_core.cli.command import run_command


def fail_with(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ('function', 'code', 'printed'),
    [
        (lambda: None, 0, ''),
        (list, 0, ''),
        (lambda: ['a.bag: bad', 'b.bag: bad'], 2, 'tool: a.bag: bad\ntool: b.bag: bad\n'),
        (fail_with(LookupError('no such file')), 2, 'tool: no such file\n'),
        (fail_with(KeyboardInterrupt()), 130, 'tool: stopped; nothing was written\n'),
    ],
)
def test_exit_code_and_message(capsys, function, code, printed):
    stopped = 'stopped; nothing was written'
    assert run_command('tool', function, (LookupError,), stopped) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ('', printed)


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match='a bug'):
        run_command('tool', fail_with(ValueError('a bug')), (LookupError,), 'stopped')


def test_a_command_may_shorten_its_messages(capsys):
    run_command(
        'tool', fail_with(OSError('a\nb')), (OSError,), '', lambda err: str(err).split('\n')[1]
    )
    assert capsys.readouterr().err == 'tool: b\n'
