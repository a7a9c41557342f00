"""Exit codes of commands, and one line on stderr instead of a traceback for a user's errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130


def run_command(
    name: str,
    function: Callable[[], Sequence[str] | None],
    bad_input: tuple[type[Exception], ...],
    stopped: str,
    describe: Callable[[Exception], str] = str,
) -> int:
    """
    Run a command and print its errors on stderr, one line each, with the name of the command.

    :param name: name of the command.
    :param function: the work; it may return messages of inputs that could not be used.
    :param bad_input: errors that a user can fix.
    :param stopped: message on Ctrl-C: the state of the output.
    :param describe: text of such an error.
    :return: exit code: 0, EXIT_BAD_INPUT or EXIT_STOPPED.
    """
    try:
        errors = function() or ()
    except bad_input as err:
        errors = (describe(err),)
    except KeyboardInterrupt:
        print(f'{name}: {stopped}', file=sys.stderr)
        return EXIT_STOPPED
    for error in errors:
        print(f'{name}: {error}', file=sys.stderr)
    return EXIT_BAD_INPUT if errors else 0
