"""The rules of the house, read off the imports: see the drawing in README.md, 'The house'."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Lowest floor first. A file may import from lower floors, and from its own folder.
FLOORS = [
    [
        'stl_core/types.py',
        'stl_core/progress.py',
        'stl_core/strict.py',
        'stl_core/__init__.py',
    ],
    [
        'stl_core/geometry.py',
        'stl_core/batch.py',
        'stl_core/inverse_depth.py',
        'stl_core/strokes.py',
        'stl_core/shares.py',
    ],
    ['stl_core/above.py', 'stl_core/means.py', 'stl_core/precision.py'],
    [
        'stl_core/distinct.py',
        'stl_core/images.py',
        'stl_core/pairs.py',
        'stl_core/draw.py',
        'stl_core/charts.py',
    ],
    ['stl_core/contest.py', 'stl_core/matching.py', 'stl_core/sight.py'],
    ['stl_core/evaluate.py', 'stl_core/reliability.py', 'stl_core/tracking_score.py'],
    ['stl_core/oracle.py', 'stl_core/diagrams.py'],
    ['stl_core/dossier.py'],
    ['stl_core/models', 'stl_core/distill'],
    ['stl_core/predict.py', 'stl_core/data'],
    ['stl_core/data/synthetic', 'stl_core/published'],
    ['stl_core/data/depth_command.py'],
    ['stl_core/optim.py', 'stl_core/judge.py', 'stl_core/parallel.py'],
    ['stl_core/config.py', 'stl_core/step.py'],
    ['stl_core/checkpoint.py', 'stl_core/learner.py'],
    ['stl_core/record.py', 'stl_core/run.py'],
    ['stl_core/train.py'],
    ['stl_core/stages.py', 'stl_core/selection.py', 'stl_core/study_table.py'],
    ['stl_core/study.py', 'stl_core/selection_chart.py'],
    ['stl_core/transfer_commands.py'],
    ['stl_core/cli.py'],
    ['stl_core/__main__.py'],
    ['mono3d_ros'],
]
ROS = ('rclpy', 'launch', 'launch_ros', 'ament_index_python')
ROS_ROOMS = {
    'mono3d_ros/node.py',
    'mono3d_ros/endpoints.py',
    'mono3d_ros/inputs.py',
    'mono3d_ros/outputs.py',
    'mono3d_ros/reporting.py',
    'mono3d_ros/ros_parameters.py',
    'mono3d_ros/tf_listener.py',
}
#: Packages that may be imported in a few places only.
ALLOWED = {
    'torch': {
        'stl_core/batch.py',
        'stl_core/inverse_depth.py',
        'stl_core/models',
        'stl_core/distill',
        'stl_core/predict.py',
        'stl_core/published',
        'stl_core/data/dataset.py',
        'stl_core/data/workers.py',
        'stl_core/data/synthetic',
        'stl_core/shares.py',
        'stl_core/means.py',
        'stl_core/precision.py',
        'stl_core/sight.py',
        'stl_core/learner.py',
        'stl_core/selection.py',
        'stl_core/optim.py',
        'stl_core/judge.py',
        'stl_core/parallel.py',
        'stl_core/step.py',
        'stl_core/checkpoint.py',
        'stl_core/record.py',
        'stl_core/run.py',
        'stl_core/train.py',
    },
    'timm': {'stl_core/models/backbone.py'},
    'rosbags': {'mono3d_ros/bag.py'},
    'rerun': {'mono3d_ros/film.py'},
    'cv_bridge': {'mono3d_ros/decoding.py'},
    'yaml': {'stl_core/strict.py'},
    'importlib': {'mono3d_ros/ros_messages.py', 'mono3d_ros/installation.py'},
}
NO_ROOMS = {'utils', 'util', 'helpers', 'helper', 'common', 'misc', 'base'}


def sources():
    found = [*ROOT.glob('stl_core/**/*.py'), *ROOT.glob('mono3d_ros/**/*.py')]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in found}


def imports(tree):
    """Every module named by an import, with `from a import b` as both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'relative import of {node.module}'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def floor(path):
    hits = [
        i for i, rooms in enumerate(FLOORS) for r in rooms if path == r or path.startswith(r + '/')
    ]
    return hits[-1] if hits else None


def as_file(module, files):
    stem = module.replace('.', '/')
    return next((p for p in (f'{stem}.py', f'{stem}/__init__.py') if p in files), None)


def within(path, places):
    return any(path == place or path.startswith(place + '/') for place in places)


def test_every_file_stands_on_a_floor_and_has_an_honest_name():
    for path in sources():
        assert floor(path) is not None, f'{path}: not in FLOORS'
        assert not NO_ROOMS & set(Path(path).with_suffix('').parts), f'{path}: find the noun'


def test_imports_go_down():
    files = sources()
    for path, tree in files.items():
        for module in imports(tree):
            target = as_file(module, files)
            if target is None or target == path or target == 'stl_core/__init__.py':
                continue
            same_room = Path(target).parent == Path(path).parent != Path('stl_core')
            assert floor(target) < floor(path) or same_room, f'{path} imports {module}'


def test_models_and_distill_are_strangers():
    for path, tree in sources().items():
        if path.startswith('stl_core/models/'):
            assert not any(m.startswith('stl_core.distill') for m in imports(tree)), path
        if path.startswith('stl_core/distill/') and path != 'stl_core/distill/distiller.py':
            assert not any(m.startswith('stl_core.models') for m in imports(tree)), path


def test_ros_has_one_room():
    for path, tree in sources().items():
        ros = {m for m in imports(tree) if m.split('.')[0] in ROS or '_msgs' in m.split('.')[0]}
        assert not ros or path in ROS_ROOMS, f'{path} imports {ros}'


def test_packages_stay_where_they_belong():
    for path, tree in sources().items():
        for module in imports(tree):
            places = ALLOWED.get(module.split('.')[0])
            assert places is None or within(path, places), f'{path} imports {module}'


def test_the_pipeline_reads_no_clock():
    assert not {'time', 'datetime'} & set(imports(sources()['mono3d_ros/pipeline.py']))


def test_no_module_level_mutable_state():
    for path, tree in sources().items():
        for node in ast.walk(tree):
            assert not isinstance(node, (ast.Global, ast.Nonlocal)), f'{path}:{node.lineno}'


def test_no_loss_reads_a_tensor_into_python_or_chooses_a_device():
    """Reading makes the host wait at every step."""
    for path, tree in sources().items():
        if within(path, ['stl_core/distill']):
            for node in ast.walk(tree):
                named = node.attr if isinstance(node, ast.Attribute) else None
                forbidden = named in {'item', 'tolist', 'numpy', 'cpu', 'cuda'}
                assert not forbidden, f'{path}:{node.lineno} asks for .{named}'


def test_only_mains_print():
    mains = (
        'stl_core/cli.py',
        'stl_core/transfer_commands.py',
        'mono3d_ros/node.py',
        'mono3d_ros/kitti_to_bag.py',
        'mono3d_ros/bag_to_kitti.py',
        'mono3d_ros/evaluate_bag.py',
        'mono3d_ros/synthesize_bag.py',
        'mono3d_ros/doctor.py',
    )
    for path, tree in sources().items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        prints = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == 'print']
        assert not prints or path in mains, f'{path}:{prints[0].lineno} prints'
