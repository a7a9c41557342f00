"""A new detector and a new distillation loss, each one file and one line in a registry."""

import json

import pytest
import toy_detector
import toy_loss
import yaml
from small_stages import make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.distill import LOSSES
from stl_core.inference import model_file
from stl_core.models import DETECTORS
from stl_core.tensors.detector import as_detector
from stl_core.training import stages
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module', autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DETECTORS, 'toy', toy_detector.ENTRY)
        patch.setitem(LOSSES, 'toy', toy_loss.ENTRY)
        yield


def toy_plan(scenes, out):
    """Return the stages teacher, base and distil of the toy, distilled by toy and by features."""
    data = plan(scenes, out)
    data['detector'] = {'name': 'toy', 'options': {'width': 6}}
    losses = {'toy': {'scale': 2.0}, 'feature': {}, 'response': {}}
    distil = data['stages']['distil']
    distil['distill'] |= {'losses': losses, 'layers': {'strides': [8], 'width': 8}}
    distil['weights'] = {f'distill/{name}': 1.0 for name in losses}
    return data


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Train all stages by the command `stl train`; return the folder, with scenes and stages."""
    root = tmp_path_factory.mktemp('toy')
    data = toy_plan(make_scenes_with_depth(root / 'training', 4), root)
    data['accumulate'] = 2
    (root / 'plan.yaml').write_text(yaml.safe_dump(data, sort_keys=False))
    main.main(['train', str(root / 'plan.yaml')])
    return root


def test_a_new_detector_is_trained_and_its_file_loads(trained):
    path = trained / 'base/student.safetensors'
    spec = model_file.read_model_spec(path)
    assert (spec.detector, spec.options) == ('toy', {'width': 6, 'max_objects': 5})
    assert isinstance(as_detector(model_file.load_detector(path, spec)), toy_detector.ToyDetector)


def test_a_new_loss_and_those_of_the_package_distil_the_new_detector(trained):
    header, *rows = (trained / 'distil/curves.csv').read_text().splitlines()
    row = dict(zip(header.split(','), rows[-1].split(','), strict=True))
    for name in ('toy', 'feature', 'response'):
        assert float(row[f'distill/{name}']) > 0
    assert {key for key in row if key.startswith('det/')} == toy_detector.LOSS_WEIGHTS.keys()


def test_a_new_detector_is_evaluated_with_the_metrics_of_its_training(trained, capsys):
    model = str(trained / 'distil/student.safetensors')
    argv = ['evaluate', model, str(trained / 'training'), '--device', 'cpu']
    main.main([*argv, '--json', str(trained / 'ap.json')])
    metrics = json.loads((trained / 'ap.json').read_text())
    written = json.loads((trained / 'distil/metrics.json').read_text())
    assert {**metrics['ap'], 'counts': metrics['counts']} == written
    assert 'protocol published: this detector has none' in capsys.readouterr().out
    data = toy_plan(trained / 'training', trained)
    data['stages']['base']['val'] = {'protocol': 'published'}
    message = 'val.protocol: published, but detector toy has no published protocol; use ours'
    with pytest.raises(ConfigError, match=message):
        stages.build_stages(data)
    main.main(['inspect', model])
    assert 'toy' in capsys.readouterr().out


def test_depth_input_at_a_virtual_focal_length_needs_a_detector_that_has_one(trained):
    data = toy_plan(trained / 'training', trained)
    data['stages']['teacher']['input']['depth']['virtual_focal_px'] = 720.0
    message = 'virtual_focal_px is 720.0, but detector toy learns depth in true metres'
    with pytest.raises(ConfigError, match=message):
        resolve_config(stages.build_stages(data)['teacher'])


def test_options_that_the_new_detector_refuses_are_errors_of_the_configuration(trained, capsys):
    argv = ['train', str(trained / 'plan.yaml'), '--stage', 'base', 'detector.options.width=0']
    with pytest.raises(SystemExit) as exited:
        main.main([*argv, f'stages.base.out={trained / "other"}'])
    assert exited.value.code == 2
    assert 'width 0: expected at least 1' in capsys.readouterr().err
