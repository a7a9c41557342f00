"""`--help` of every command shows the default of every option."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Commands of setup.py with a parser; the node takes ROS arguments.
COMMANDS = {
    name: module
    for name, module in re.findall(r"'(\w+) = ([\w.]+):main'", (ROOT / 'setup.py').read_text())
    if name != 'detector'
}


class ParsedError(Exception):
    """Raised in place of parsing."""


def parser_of(module, monkeypatch):
    """Return the parser that the main function of a module builds."""
    found = []

    def parse(self, *arguments, **options):
        found.append(self)
        raise ParsedError

    for name in ('parse_args', 'parse_known_args'):
        monkeypatch.setattr(argparse.ArgumentParser, name, parse)
    with pytest.raises(ParsedError):
        importlib.import_module(module).main([])
    return found[0]


def with_subcommands(parser):
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from with_subcommands(each)


def help_of(parser, action):
    """Return what --help prints for one option, in one line."""
    formatter = parser._get_formatter()
    formatter.add_argument(action)
    return ' '.join(formatter.format_help().split())


@pytest.mark.parametrize('command', COMMANDS)
def test_every_option_shows_its_default(command, monkeypatch):
    checked = 0
    for parser in with_subcommands(parser_of(COMMANDS[command], monkeypatch)):
        for action in parser._actions:
            optional = action.option_strings and not action.required
            if not optional or isinstance(action, argparse._HelpAction):
                continue
            text = help_of(parser, action)
            assert 'default: ' in text, f'{parser.prog} {text}'
            has_value = action.default not in (None, '', []) and action.default is not False
            if has_value and 'default' not in (action.help or ''):
                assert str(action.default) in text, f'{parser.prog} {text}'
            checked += 1
    assert checked > 0


def test_all_commands_of_the_package_are_covered():
    assert {'stl', 'doctor', 'evaluate_bag', 'kitti_to_bag', 'bag_to_kitti'} <= COMMANDS.keys()
