"""
Regression check: run the same work at two commits and compare all outputs byte for byte.

    python bench/compare_commits.py BASE [--head HEAD] [--out runs/compare] [--only STEP ...]

Each commit is checked out into a separate folder below --out, and runs there with one thread:

- synthesize: a synthetic data set of 20 frames and a surround drive as a bag;
- bags: `evaluate_bag` with the shipped model and tracks, on the real frames and on the drive;
- predict: KITTI result files and AP of the shipped model on the real and the synthetic frames;
- train: two epochs on the real frames, and teacher, base and distilled model of two epochs each;
- resume: HEAD evaluates BASE's model file and resumes BASE's checkpoint for a third epoch.

Files are compared by their bytes; checkpoints and model files tensor by tensor, since archives may
contain times. Prints one line per step, lists every file that differs, and exits with 1 if there
is one. Outputs of a commit are kept, so BASE runs once. Needs the real frames ($MONO3D_DATA).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
MODEL = 'mono3d_ros/models/synthetic_mobile.safetensors'
TRAIN = 'config/train/overfit_mobile.yaml'
STEPS = ('synthesize', 'bags', 'predict', 'train', 'resume')
#: Files that contain times or the name of the host.
TIMED = ('curves.csv', 'timing.json', 'report.html', 'events.out.tfevents*', '*.png', '*.jpg.part')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('base', help='commit')
    parser.add_argument('--head', default='HEAD', help='commit to compare with it')
    parser.add_argument('--out', type=Path, default=ROOT / 'runs/compare', help='working folder')
    parser.add_argument('--only', nargs='*', choices=STEPS, default=STEPS, help='steps to run')
    args = parser.parse_args()
    base, head = (check_out(args.out.resolve(), commit) for commit in (args.base, args.head))
    different = 0
    for step in args.only:
        for commit in (base, head):
            run_once(commit, step, base)
        different += report(step, base, head)
    return int(different > 0)


def check_out(out, commit):
    """Clone a commit into a folder below `out`; return the folder."""
    name = git(ROOT, 'rev-parse', '--short=12', commit)
    folder = out / name
    if not (folder / 'setup.py').exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(ROOT, 'clone', '--quiet', '--no-checkout', str(ROOT), str(folder))
        git(folder, 'checkout', '--quiet', name)
    return folder


def git(folder, *args):
    done = subprocess.run(['git', *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def run_once(commit, step, base):
    """Run a step in a commit's folder, unless it has finished before."""
    mark = commit / 'compared' / f'{step}.done'
    if mark.exists():
        return
    shutil.rmtree(commit / 'compared' / step, ignore_errors=True)
    (commit / 'compared' / step).mkdir(parents=True)
    globals()[f'run_{step}'](commit, f'compared/{step}', base)
    mark.touch()


def command(commit, name, *args):
    """Return the arguments of subprocess for a command, resolved by the commit's setup.py."""
    (entry,) = re.findall(rf"'{name} = ([\w.]+):main'", (commit / 'setup.py').read_text())
    code = f'import sys; from {entry} import main; sys.exit(main())'
    data = str(Path(os.environ.get('MONO3D_DATA', ROOT / '../shared/data')).resolve())
    words = [str(a).replace('$DATA', data) for a in args]
    env = {'PYTHONPATH': str(commit), 'MONO3D_DATA': data, 'OMP_NUM_THREADS': '1'}
    return {
        'args': [sys.executable, '-c', code, *words],
        'cwd': commit,
        'env': {**os.environ, **env},
        'stdout': subprocess.PIPE,
        'stderr': subprocess.PIPE,
        'text': True,
    }


def call(commit, name, *args):
    """Run a command and return its standard output; exit with its messages if it fails."""
    done = subprocess.run(**command(commit, name, *args))
    if done.returncode:
        raise SystemExit(f'{commit.name}: {name} {args}: {done.stdout}{done.stderr}')
    return done.stdout


def run_synthesize(commit, out, base):
    call(commit, 'stl', 'synthesize', f'{out}/world', '--frames', 20, '--seed', 3, '--workers', 1)
    drive = (f'{out}/drive', '--frames', 6, '--seed', 7, '--surround', '--size', '640x192')
    call(commit, 'synthesize_bag', *drive, '--workers', 1)


def run_bags(commit, out, base):
    drive = commit / 'compared/synthesize/drive'
    call(commit, 'kitti_to_bag', '$DATA/training', f'{out}/kitti')
    for name, bag in (('kitti', f'{out}/kitti'), ('drive', drive.relative_to(commit))):
        call(commit, 'evaluate_bag', bag, f'{out}/{name}_evaluated', '--device', 'cpu', '--track')


def run_predict(commit, out, base):
    for name, frames in (
        ('real', '$DATA/training'),
        ('world', 'compared/synthesize/world/training'),
    ):
        files = ('--results', f'{out}/{name}', '--json', f'{out}/{name}.json')
        text = call(commit, 'stl', 'evaluate', MODEL, frames, '--device', 'cpu', *files)
        (commit / out / f'{name}.txt').write_text(text)


def distillation_config(commit):
    """Return the MonoSTL configuration for the real frames; earlier commits use another name."""
    paths = (commit / 'config/train').glob('monostl_*.yaml')
    (path,) = (p for p in paths if not re.search('kitti|synthetic', p.stem))
    return path


def run_train(commit, out, base):
    call(commit, 'stl', 'train', TRAIN, f'out={out}/labels', 'epochs=2', 'save_every=1')
    path = distillation_config(commit)
    text = re.sub(r'epochs: \d+', 'epochs: 2', path.read_text())
    text = text.replace(f'runs/{path.stem}', f'{out}/distil')
    (commit / out / 'plan.yaml').write_text(text)
    call(commit, 'stl', 'train', f'{out}/plan.yaml')
    (commit / out / 'plan.yaml').unlink()


def run_resume(commit, out, base):
    """Evaluate BASE's model file and resume BASE's checkpoint, so that only the code differs."""
    interrupted = base / 'compared/interrupted'
    if commit == base:
        interrupt_training(base, interrupted)
    shutil.copytree(interrupted, commit / out / 'labels')
    model = base / 'compared/train/labels/student.safetensors'
    files = ('--results', f'{out}/results', '--json', f'{out}/base.json')
    call(commit, 'stl', 'evaluate', model, '$DATA/training', '--device', 'cpu', *files)
    call(commit, 'stl', 'train', TRAIN, f'out={out}/labels', 'epochs=3', 'save_every=1')


def interrupt_training(commit, target):
    """Kill a run of three epochs after its first checkpoint; move its folder to `target`."""
    out = commit / 'compared/resume/labels'
    words = ('stl', 'train', TRAIN, f'out={out.relative_to(commit)}', 'epochs=3', 'save_every=1')
    running = subprocess.Popen(**command(commit, *words))
    while not (out / 'last.pt').exists() and running.poll() is None:
        time.sleep(0.05)
    running.kill()
    running.wait()
    shutil.move(out, target)


def report(step, base, head):
    """Print how many files of a step are equal and list the others; return their number."""
    folders = [commit / 'compared' / step for commit in (base, head)]
    names = sorted({p.relative_to(f) for f in folders for p in f.rglob('*') if p.is_file()})
    names = [n for n in names if not any(n.match(pattern) for pattern in TIMED)]
    differences = [(n, difference(*(f / n for f in folders))) for n in names]
    differences = [(n, text) for n, text in differences if text]
    print(f'{step}: {len(names) - len(differences)} of {len(names)} files equal', flush=True)
    for name, text in differences:
        print(f'    {name}: {text}')
    return len(differences)


def difference(a, b):
    """Describe the difference of two files; '' if they are equal."""
    if not (a.exists() and b.exists()):
        return f'only at {"BASE" if a.exists() else "HEAD"}'
    if a.read_bytes() == b.read_bytes():
        return ''
    if a.suffix == '.safetensors':
        headers = [safe_open(f, 'pt').metadata() for f in (a, b)]
        texts = ['' if h[0] == h[1] else f'headers {h[0]} and {h[1]}' for h in [headers]]
        return texts[0] or tensors_differ(load_file(a), load_file(b))
    if a.suffix == '.pt':
        return tensors_differ(*(torch.load(f, 'cpu', weights_only=False) for f in (a, b)))
    if a.suffix == '.json':
        x, y = (json.loads(f.read_text()) for f in (a, b))
        return tensors_differ(x, y) or 'same values, other text'
    return f'{a.stat().st_size} and {b.stat().st_size} bytes'


def tensors_differ(a, b, key=''):
    """Describe the first entry that differs between two nested structures; '' if none does."""
    if type(a) is not type(b):
        return f'{key}: {type(a).__name__} and {type(b).__name__}'
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f'{key}: keys {sorted(map(str, a.keys() ^ b.keys()))} in one only'
        return next(filter(None, (tensors_differ(a[k], b[k], f'{key}/{k}') for k in a)), '')
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f'{key}: {len(a)} and {len(b)} entries'
        pairs = zip(a, b, strict=True)
        return next(
            filter(None, (tensors_differ(*p, f'{key}/{i}') for i, p in enumerate(pairs))), ''
        )
    if isinstance(a, torch.Tensor | np.ndarray):
        same = a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
        return '' if same else f'{key}: arrays differ'
    return '' if a == b or (a != a and b != b) else f'{key}: {a!r} and {b!r}'


if __name__ == '__main__':
    sys.exit(main())
