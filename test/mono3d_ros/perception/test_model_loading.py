"""Finding, loading and warming up the model that the parameters name."""

import pytest

from mono3d_ros.bag_evaluation import runner
from mono3d_ros.params import Params
from mono3d_ros.perception import model_loading
from mono3d_ros.perception.model_loading import find_model, warm_up
from stl_core.inference import model_file
from stl_core.inference.predictor import Predictor
from stl_core.preprocessing import DepthSpec, InputSpec


def no_share(package):
    raise LookupError(package)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / 'models' / 'student.safetensors'
    path.parent.mkdir()
    path.write_text('weights')
    return path


def test_paths(model, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (
        str(model),
        'models/student.safetensors',
        '~/models/student.safetensors',
        '$HERE/student.safetensors',
        '${HERE}/student.safetensors',
    ):
        assert find_model(text, no_share, {'HERE': str(model.parent)}) == model


def test_packages(model):
    share_directories = {'mono3d_ros': str(model.parents[1]), 'mine': str(model.parent)}
    assert find_model('package://mine/student.safetensors', share_directories.__getitem__) == model
    assert find_model('student.safetensors', share_directories.__getitem__) == model


def test_bare_name_is_also_searched_among_the_shipped_models(tmp_path, monkeypatch):
    shipped = tmp_path / 'shipped'
    shipped.mkdir()
    (shipped / 'student.safetensors').write_text('weights')
    monkeypatch.setattr(model_loading, 'SHIPPED_MODELS', shipped)
    assert find_model('student.safetensors', no_share) == shipped / 'student.safetensors'
    with pytest.raises(ValueError, match='not found'):  # a path is not a bare name
        find_model('models/student.safetensors', no_share)


def test_default_model_exists_and_is_small(tmp_path):
    path = find_model(Params().model, no_share)
    assert path.stat().st_size <= 4_000_000
    assert len(model_loading.load_model(path, 'cpu').spec.classes) == 3


def test_depth_teacher_raises(tmp_path):
    options = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
    spec = model_file.ModelSpec(
        ('Car', 'Pedestrian', 'Cyclist'), InputSpec(depth=DepthSpec()), 'monodle', options
    )
    path = tmp_path / 'teacher.safetensors'
    model_file.save_model(path, model_file.build_detector(spec), spec)
    message = 'teacher.safetensors: a teacher, which needs depth maps; expected a student'
    with pytest.raises(ValueError, match=message):
        model_loading.load_model(path, 'cpu')
    with pytest.raises(runner.ModelError, match=message):
        runner.ModelRef(path, 'cpu').load()


def test_error_lists_every_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=f"'x.pt' not found; tried {tmp_path}/x.pt, /share/models/x"
    ):
        find_model('x.pt', lambda package: '/share')
    with pytest.raises(ValueError, match=r'tried package mine \(not installed\)'):
        find_model('package://mine/x.pt', no_share)
    with pytest.raises(ValueError, match=r'tried .*/\$NOWHERE/x.pt'):
        find_model('$NOWHERE/x.pt', no_share, {})
    with pytest.raises(ValueError, match='parameter model is empty'):
        find_model('', no_share)


def test_folder_raises(tmp_path):
    with pytest.raises(ValueError, match='not found'):
        find_model(str(tmp_path), no_share)


def test_missing_ament_prefix_path(tmp_path):
    def share(package):
        raise OSError('AMENT_PREFIX_PATH is not set')

    with pytest.raises(ValueError, match='not installed'):
        find_model('package://mine/x', share)


class OnGpu:
    """A runner on a GPU."""

    device = 'cuda:0'

    def __call__(self, canvases, P):
        return []


def test_the_device_is_that_of_the_runner():
    spec = model_file.ModelSpec(('Car',), InputSpec(), 'monodle')
    assert Predictor(OnGpu(), spec).device == 'cuda:0'
    path = find_model(Params().model, no_share)
    assert model_loading.load_model(path, 'cpu').device == 'cpu'


def test_warm_up_runs_every_batch_size():
    batches = []

    def predictor(images, Ps):
        assert all(image.shape == (384, 1280, 3) for image in images)
        assert all(P.shape == (3, 4) for P in Ps)
        batches.append((len(images), len(Ps)))

    warm_up(predictor)
    assert batches == [(1, 1)]
    warm_up(predictor, 3)
    assert batches[1:] == [(1, 1), (2, 2), (3, 3)]
