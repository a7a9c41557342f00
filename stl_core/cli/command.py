"""What all commands share: help with defaults, exit codes, one line for a user's errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130


class DefaultsFormatter(argparse.HelpFormatter):
    """Help that shows the default of every option, also of flags and options without a value."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help of an option, with its default unless the text has one."""
        text = action.help or ''
        if action.required or action.default == argparse.SUPPRESS or 'default' in text:
            return text
        if action.default in (None, '') or action.default == []:
            return f'{text} (default: none)'
        if isinstance(action.default, bool):
            return f'{text} (default: {"on" if action.default else "off"})'
        return f'{text} (default: %(default)s)'


class CommandParser(argparse.ArgumentParser):
    """The parser of every command: its help, and that of its subcommands, shows the defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build a parser as argparse does; see DefaultsFormatter."""
        super().__init__(*args, **{'formatter_class': DefaultsFormatter, **kwargs})


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
