"""Plain technical English: words that this project once used in a sense of its own are refused."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Word or phrase: what to write instead.
REFUSED = {
    r'told|tells?|telling': 'report, return, log, describe',
    r'heard|heed(s|ed)?': 'receive, use',
    r'surer': 'higher-scoring, more certain',
    r'by heart': 'overfitted, memorised',
    r'mend(s|ed|ing)?': 'fix',
    r'amid|wherein|behold|nor is|as may be': 'plain words',
    r'but for': 'except',
    r'at hand': 'available, present',
    r'what is|what was': 'the noun itself',
    r'go(es)? on with|going on with|gone on with': 'resume, continue',
    r'say no more|hear no more|what is wanted': 'the action itself',
    r'knows? no better': 'the reason itself',
}
#: Names of variables, parameters, functions, classes and fields: what they were used for.
REFUSED_NAMES = {
    *('told', 'heard', 'heeded', 'surer', 'own', 'ideal', 'sight', 'sights', 'eyes', 'dossier'),
    *('contest', 'examiner', 'exam', 'wish', 'doubt', 'strange', 'door', 'beaten', 'dislike'),
    *('worth', 'mend', 'amid', 'outside', 'born', 'shares', 'film', 'suspects', 'complain'),
}
#: These list old names on purpose.
EXEMPT = ('docs/moved_files.md', 'docs/renamed_symbols.md', 'test/repository/test_vocabulary.py')
#: A key of `doctor --json`, which programs may read.
JSON_KEYS = ("'told'", '"told"')
SUFFIXES = {'.py', '.md', '.yaml', '.yml', '.rst', '.xml', '.cfg', '.toml', '.rviz'}
FOLDERS = ('stl_core', 'mono3d_ros', 'launch', 'bench', 'examples', 'test', 'docs', 'config')


def text_files():
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob('*') if p.suffix in SUFFIXES]
    found += [p for p in ROOT.iterdir() if p.suffix in SUFFIXES or p.name == 'Makefile']
    return [p for p in sorted(found) if p.relative_to(ROOT).as_posix() not in EXEMPT]


def names_of(tree):
    """Names that a module defines, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno


def refused_words(text):
    """(line, word, what to write instead) of a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for key in JSON_KEYS:
            line = line.replace(key, '')
        words = line.replace('_', ' ')
        for pattern, instead in REFUSED.items():
            for match in re.finditer(rf'\b({pattern})\b', words, re.IGNORECASE):
                yield number, match[0], instead


def test_texts_are_plain_english():
    hits = [
        f'{path.relative_to(ROOT)}:{number}: {word!r}; write: {instead}'
        for path in text_files()
        for number, word, instead in refused_words(path.read_text())
    ]
    assert not hits, '\n'.join(hits)


def test_names_are_the_fields_own():
    hits = [
        f'{path.relative_to(ROOT)}:{line}: {name}'
        for path in text_files()
        if path.suffix == '.py'
        for name, line in names_of(ast.parse(path.read_text()))
        if name.strip('_').lower() in REFUSED_NAMES
    ]
    assert not hits, '\n'.join(hits)


@pytest.mark.parametrize('line', ['the student is told', 'x = what_is(here)', 'learnt by heart'])
def test_refused_words_are_found(line):
    assert list(refused_words(line))
