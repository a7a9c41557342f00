"""Architecture rules, checked on the imports and sources: see README.md, 'Architecture'."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Layers, lowest first. A module may import from lower layers and from its own folder.
#: The longest entry that a path starts with determines its layer.
LAYERS = [
    [
        'stl_core/__init__.py',
        'stl_core/types.py',
        'stl_core/progress.py',
        'stl_core/files.py',
    ],
    [
        'stl_core/geometry.py',
        'stl_core/image_header.py',
        'stl_core/vehicle_types.py',
        'stl_core/rotations.py',
    ],
    ['stl_core/preprocessing.py', 'stl_core/visualization'],
    ['stl_core/tensors', 'stl_core/evaluation'],
    ['stl_core/evaluation/metrics'],
    ['stl_core/models', 'stl_core/distill'],
    ['stl_core/data'],
    ['stl_core/data/synthetic/scene'],
    ['stl_core/data/synthetic/sensors'],
    ['stl_core/data/synthetic/rendering'],
    ['stl_core/data/synthetic', 'stl_core/inference'],
    ['stl_core/data/synthetic/nuscenes'],
    ['stl_core/training'],
    ['stl_core/experiments'],
    ['stl_core/cli'],
    ['stl_core/__main__.py'],
    [
        'mono3d_ros/__init__.py',
        'mono3d_ros/camera_frame.py',
        'mono3d_ros/param_validators.py',
        'mono3d_ros/process_signals.py',
        'mono3d_ros/subprocess_probe.py',
        'mono3d_ros/monitoring',
    ],
    ['mono3d_ros/messages', 'mono3d_ros/doctor'],
    ['mono3d_ros/perception/detection_filter.py'],
    ['mono3d_ros/params.py'],
    ['mono3d_ros/perception', 'mono3d_ros/tf'],
    ['mono3d_ros/bags/storage'],
    ['mono3d_ros/bags'],
    ['mono3d_ros/node', 'mono3d_ros/bag_evaluation'],
]
ROS = ('rclpy', 'launch', 'launch_ros', 'ament_index_python')
ROS_FOLDER = 'mono3d_ros/node'
#: Packages that only these paths may import.
ALLOWED = {
    'torch': {
        'stl_core/tensors',
        'stl_core/models',
        'stl_core/distill',
        'stl_core/inference/converters',
        'stl_core/inference/model_file.py',
        'stl_core/inference/runtimes/torch_runner.py',
        'stl_core/inference/runtimes/torch_rig_runner.py',
        'stl_core/training',
        'stl_core/experiments/inspection/fresh_scorer.py',
        'stl_core/experiments/inspection/frozen_features.py',
        'stl_core/experiments/inspection/selection.py',
        'stl_core/experiments/inspection/trained_distiller.py',
        'stl_core/experiments/inspection/transfer_pictures.py',
        'stl_core/data/dataset.py',
        'stl_core/data/rigs/dataset.py',
        'stl_core/data/worker_pool.py',
        'stl_core/data/synthetic/frame.py',
        'stl_core/data/synthetic/sequence.py',
        'stl_core/data/synthetic/nuscenes/sample.py',
        'stl_core/data/synthetic/rendering',
        'stl_core/data/synthetic/sensors/image_sensor.py',
    },
    'timm': {'stl_core/models/backbone.py', 'stl_core/models/backbone_weights.py'},
    'rosbags': {
        'mono3d_ros/bags/bag_io.py',
        'mono3d_ros/bags/definitions.py',
        'mono3d_ros/bags/message_types.py',
    },
    'rerun': {'mono3d_ros/bag_evaluation/rerun_export.py'},
    'cv_bridge': {'mono3d_ros/messages/image_decoding.py'},
    'yaml': {'stl_core/training/config_builder.py', 'mono3d_ros/bags/storage/metadata.py'},
    'lz4': {'mono3d_ros/bags/storage/decompression.py'},
    'sqlite3': {'mono3d_ros/bags/storage/sqlite_file.py'},
    'importlib': {'mono3d_ros/node/message_factory.py', 'mono3d_ros/doctor/environment.py'},
}
#: Names that do not describe the content of a file.
FORBIDDEN_NAMES = {'utils', 'util', 'helpers', 'helper', 'common', 'misc', 'base'}
#: Names that only these files may use: others call the helper there.
HELPERS = {
    'ProcessPoolExecutor': {'stl_core/data/worker_pool.py'},
    'fsync': {'stl_core/files.py'},
    'imwrite': set(),  # returns False on a full disk; draw.write_picture raises
    'mkdtemp': {'stl_core/files.py'},
    'KeyboardInterrupt': {
        'stl_core/cli/command.py',
        'mono3d_ros/node/detector_node.py',
        'mono3d_ros/process_signals.py',
    },
}
#: The suffix of unfinished files, which atomic_file writes and replaces.
PART_SUFFIX, PART_FILE = '.part', 'stl_core/files.py'
MAX_MODULES_IN_A_FOLDER = 12
MAX_LINES = 400
MAX_FUNCTION_LINES = 49


def sources():
    paths = [*ROOT.glob('stl_core/**/*.py'), *ROOT.glob('mono3d_ros/**/*.py')]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


def imports(tree):
    """Yield every imported module; `from a import b` yields both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'relative import of {node.module}'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def within(path, folders):
    return any(path == folder or path.startswith(folder + '/') for folder in folders)


def entry(path):
    """Return the longest entry of LAYERS that a path starts with and its layer, or None."""
    hits = [(e, i) for i, entries in enumerate(LAYERS) for e in entries if within(path, [e])]
    return max(hits, key=lambda hit: len(hit[0]), default=None)


def as_file(module, files):
    stem = module.replace('.', '/')
    return next((p for p in (f'{stem}.py', f'{stem}/__init__.py') if p in files), None)


def test_every_file_has_a_layer_and_a_descriptive_name():
    for path in sources():
        assert entry(path) is not None, f'{path}: not in LAYERS'
        parts = set(Path(path).with_suffix('').parts)
        assert not FORBIDDEN_NAMES & parts, f'{path}: name it after its content'


def test_modules_import_only_lower_layers():
    files = sources()
    for path, tree in files.items():
        for module in imports(tree):
            target = as_file(module, files)
            if target is None or target == path or target == 'stl_core/__init__.py':
                continue
            (folder, layer), (target_folder, target_layer) = entry(path), entry(target)
            assert target_layer < layer or target_folder == folder, f'{path} imports {module}'


def test_folders_and_files_stay_small():
    folders = {}
    for path in sources():
        assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES, path
        if not path.endswith('__init__.py'):
            folders.setdefault(Path(path).parent, []).append(path)
    for folder, modules in folders.items():
        assert len(modules) <= MAX_MODULES_IN_A_FOLDER, f'{folder}: {len(modules)} modules'


def test_functions_stay_short():
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f'{path}: {node.name} has {lines} lines'


def test_helpers_are_written_once():
    for path, tree in sources().items():
        for node in ast.walk(tree):
            name = getattr(node, 'id', None) or getattr(node, 'attr', None)
            assert path in HELPERS.get(name, {path}), f'{path}:{node.lineno} uses {name}'
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                is_part = node.value.endswith(PART_SUFFIX)
                assert not is_part or path == PART_FILE, f'{path}:{node.lineno}: use atomic_file'


def test_models_and_distill_do_not_import_each_other():
    for path, tree in sources().items():
        if path.startswith('stl_core/models/'):
            assert not any(m.startswith('stl_core.distill') for m in imports(tree)), path
        if path.startswith('stl_core/distill/') and path != 'stl_core/distill/distiller.py':
            assert not any(m.startswith('stl_core.models') for m in imports(tree)), path


def test_ros_is_imported_in_one_folder():
    for path, tree in sources().items():
        ros = {m for m in imports(tree) if m.split('.')[0] in ROS or '_msgs' in m.split('.')[0]}
        assert not ros or within(path, [ROS_FOLDER]), f'{path} imports {ros}'


def test_restricted_packages_are_imported_only_where_allowed():
    for path, tree in sources().items():
        for module in imports(tree):
            folders = ALLOWED.get(module.split('.')[0])
            assert folders is None or within(path, folders), f'{path} imports {module}'


def test_the_pipeline_reads_no_clock():
    pipeline = sources()['mono3d_ros/perception/pipeline.py']
    assert not {'time', 'datetime'} & set(imports(pipeline))


def called_names(tree):
    """Yield (name, line) of every call: the name itself or the last attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, 'id', '') or getattr(node.func, 'attr', ''), node.lineno


def test_only_from_params_builds_a_pipeline():
    """Otherwise a parameter could act in the node but not in the bag tools."""
    for path, tree in sources().items():
        for name, line in called_names(tree):
            assert name != 'Pipeline', f'{path}:{line}: use Pipeline.from_params'


@pytest.mark.parametrize(
    ('code', 'name'),
    [
        ('Pipeline(predictor)', 'Pipeline'),
        ('pipeline.Pipeline(predictor)', 'Pipeline'),
        ('Pipeline.from_params(predictor)', 'from_params'),
    ],
)
def test_the_name_of_a_call_is_its_last_attribute(code, name):
    assert list(called_names(ast.parse(code))) == [(name, 1)]


def test_the_parts_of_the_node_know_it_by_a_protocol():
    """Parameters named `node` have a type that mypy can check."""
    for path, tree in sources().items():
        arguments = (n for n in ast.walk(tree) if isinstance(n, ast.arg) and n.arg == 'node')
        for each in arguments:
            kind = ast.unparse(each.annotation)
            assert kind != 'Any' or not within(path, [ROS_FOLDER]), f'{path}:{each.lineno}'


def test_no_module_level_mutable_state():
    for path, tree in sources().items():
        for node in ast.walk(tree):
            assert not isinstance(node, (ast.Global, ast.Nonlocal)), f'{path}:{node.lineno}'


def test_no_loss_reads_a_tensor_into_python_or_chooses_a_device():
    """Reading a tensor makes the host wait for the device at every step."""
    for path, tree in sources().items():
        if within(path, ['stl_core/distill']):
            for node in ast.walk(tree):
                attribute = node.attr if isinstance(node, ast.Attribute) else None
                forbidden = attribute in {'item', 'tolist', 'numpy', 'cpu', 'cuda'}
                assert not forbidden, f'{path}:{node.lineno} uses .{attribute}'


def test_only_commands_print():
    commands = (
        'stl_core/cli',
        'mono3d_ros/node/detector_node.py',
        'mono3d_ros/bags/kitti_to_bag.py',
        'mono3d_ros/bags/bag_to_kitti.py',
        'mono3d_ros/bags/synthesize_bag.py',
        'mono3d_ros/bag_evaluation/evaluate_bag.py',
        'mono3d_ros/doctor/__main__.py',
    )
    for path, tree in sources().items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        prints = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == 'print']
        assert not prints or within(path, commands), f'{path}:{prints[0].lineno} prints'
