"""
Read damaged files of every kind for some minutes; report exceptions that no reader should raise.

    python bench/fuzz_readers.py --minutes 10 [--seed 1] [--only labels] [--out fuzz_out]

Every input is a good file with a few random changes: bytes flipped, cut, inserted, repeated, or
numbers replaced by special ones. A reader may refuse it with an error of this project, or accept
it. Anything else, and any input that takes longer than MAX_SECONDS or more memory than MAX_MEMORY,
is a fault: the input is kept in OUT, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import logging
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stl_core.progress import progress_bar

sys.path.insert(0, str(Path(__file__).parent.parent / 'test/support'))
import file_readers
import ros_readers

MAX_SECONDS = 20.0
MAX_MEMORY = 12 << 30
NUMBER = re.compile(rb'-?\d+(\.\d+)?([eE][-+]?\d+)?')
SPECIAL = (b'nan', b'inf', b'-1', b'0', b'1e400', b'99999999999999999999', b'1e-320', b'', b'x')


@dataclass
class Tally:
    """What became of the inputs of one reader; seconds of the slowest."""

    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return data with one to four random changes."""
    for _ in range(rng.integers(1, 5)):
        data = _CHANGES[rng.integers(len(_CHANGES))](data, rng)
    return data


def _flip_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9) if data else 0):
        changed[rng.integers(len(data))] = rng.integers(256)
    return bytes(changed)


def _flip_early_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Headers and sizes stand first."""
    return _flip_bytes(data[:256], rng) + data[256:]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = np.sort(rng.integers(0, len(data) + 1, 2)).tolist()
    return data[:start] if rng.random() < 0.5 else data[:start] + data[stop:]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data) + 1))
    return data[:place] + rng.bytes(int(rng.integers(1, 64))) + data[place:]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = np.sort(rng.integers(0, len(data) + 1, 2)).tolist()
    return data[:stop] + data[start:]


def _replace_number(data: bytes, rng: np.random.Generator) -> bytes:
    places = [match.span() for match in NUMBER.finditer(data[:65536])]
    if not places:
        return _flip_bytes(data, rng)
    start, stop = places[rng.integers(len(places))]
    return data[:start] + SPECIAL[rng.integers(len(SPECIAL))] + data[stop:]


def _largest_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Sizes and counts of binary formats become huge."""
    place = int(rng.integers(max(len(data) - 8, 1)))
    return data[:place] + b'\xff' * int(rng.choice([2, 4, 8])) + data[place + 8 :]


_CHANGES = (
    *(_flip_bytes, _flip_early_bytes, _cut, _insert, _repeat, _replace_number, _replace_number),
    _largest_number,
)


def try_input(reader: file_readers.FileReader, folder: Path, data: bytes, tally: Tally) -> str:
    """Read one input in a folder; return the traceback of a fault, '' if there is none."""
    path = folder / reader.file
    path.write_bytes(data)
    start = time.perf_counter()
    fault = ''
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            reader.read(path)
        tally.accepted += 1
    except (*file_readers.EXPECTED_ERRORS, *ros_readers.EXPECTED_ERRORS) as err:
        tally.refused += 1
        if '\n' in str(err):
            fault = f'a message of several lines: {err}'
    except Exception:
        fault = traceback.format_exc()
    seconds = time.perf_counter() - start
    tally.slowest_s = max(tally.slowest_s, seconds)
    if seconds > MAX_SECONDS:
        fault += f'took {seconds:.0f} s'
    return fault


def fuzz(
    readers: list[file_readers.FileReader], seconds: float, seed: int, out: Path
) -> Iterator[tuple[str, Tally]]:
    """Fuzz readers in turn, each for its part of the time; yield name and tally of each."""
    for number, reader in enumerate(readers):
        tally, rng = Tally(), np.random.default_rng([seed, number])
        end = time.monotonic() + seconds / len(readers)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            reader.good(folder)
            good = (folder / reader.file).read_bytes()
            while time.monotonic() < end:
                data = mutate(good, rng)
                if fault := try_input(reader, folder, data, tally):
                    tally.faults.append(fault)
                    out.mkdir(parents=True, exist_ok=True)
                    stem = f'{reader.name.replace(" ", "_")}_{len(tally.faults)}'
                    (out / f'{stem}{Path(reader.file).suffix}').write_bytes(data)
                    (out / f'{stem}.txt').write_text(fault)
        yield reader.name, tally


def main() -> int:
    """Fuzz, print a row per reader, and return 1 if there were faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--only', help='name of one reader')
    parser.add_argument('--out', type=Path, default=Path('fuzz_out'), help='inputs of faults')
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    logging.disable(logging.CRITICAL)
    readers = [*file_readers.READERS, *ros_readers.READERS]
    readers = [each for each in readers if args.only in (None, each.name)]
    results = fuzz(readers, args.minutes * 60, args.seed, args.out)
    faults = 0
    print(
        '| reader | inputs | refused | accepted | slowest, s | faults |\n|---|---|---|---|---|---|'
    )
    with progress_bar() as progress:
        task = progress.add_task('readers', total=len(readers), note='')
        for name, tally in results:
            progress.advance(task)
            faults += len(tally.faults)
            inputs = tally.accepted + tally.refused + len(tally.faults)
            progress.console.print(
                f'| {name} | {inputs} | {tally.refused} | {tally.accepted} |'
                f' {tally.slowest_s:.2f} | {len(tally.faults)} |'
            )
    print(f'{faults} faults' + (f', see {args.out}' if faults else ''))
    return int(faults > 0)


if __name__ == '__main__':
    sys.exit(main())
