"""stl kitti-ap, evaluate and predict say what went in, and fail where AP means nothing."""

import json
import re

import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from label_rows import box, frame

from stl_core.cli import main
from stl_core.data.sources import kitti
from stl_core.evaluation.counts import EvaluationCounts, count_objects
from stl_core.inference import model_file
from stl_core.inference.model_file import ModelFileError
from stl_core.inference.model_spec import ModelSpec
from stl_core.preprocessing import InputSpec

pytestmark = pytest.mark.usefixtures('one_thread')


def write_frames(folder, frames, score=True):
    """Write label rows as result files, or as label files without scores; return the folder."""
    folder.mkdir()
    for name, rows in frames.items():
        lines = kitti.format_results(frame(*rows)).splitlines()
        lines = lines if score else [line.rsplit(' ', 1)[0] for line in lines]
        (folder / f'{name}.txt').write_text(''.join(f'{line}\n' for line in lines))
    return folder


def kitti_ap(capsys, *arguments):
    """Return what stl kitti-ap prints; exit code 0."""
    main.main(['kitti-ap', *map(str, arguments)])
    return capsys.readouterr().out


def error_line(capsys, *arguments):
    with pytest.raises(SystemExit) as exited:
        main.main([str(each) for each in arguments])
    assert exited.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def partly_answered(tmp_path):
    """Return labels of 10 frames with a car each, and results of the first two."""
    frames = {f'{i:06d}': [box()] for i in range(10)}
    labels = write_frames(tmp_path / 'label_2', frames, score=False)
    answered = {name: rows for name, rows in frames.items() if name < '000002'}
    return labels, write_frames(tmp_path / 'results', answered)


def test_missing_result_files_are_an_error_by_default(partly_answered, capsys):
    line = error_line(capsys, 'kitti-ap', *partly_answered)
    assert '8 of 10 label files have no result file (000002, 000003, 000004, ...)' in line
    assert '--missing empty' in line


def test_missing_result_files_count_as_empty_on_request(partly_answered, tmp_path, capsys):
    """The same AP as with empty files."""
    labels, results = partly_answered
    path = tmp_path / 'ap.json'
    printed = kitti_ap(capsys, labels, results, '--missing', 'empty', '--json', path)
    assert '10 frames\n' in printed
    assert 'note: 8 of 10 frames have no result file' in printed
    data = json.loads(path.read_text())
    assert 0 < data['Car']['3d']['AP40']['strict'][0] <= 20  # 2 of 10 cars were found
    counts = data['counts']
    assert (counts['frames'], counts['frames_without_result_file']) == (10, 8)
    assert counts['labels']['Car']['total'] == 10
    assert counts['detections']['Car'] == 2
    for i in range(2, 10):
        (results / f'{i:06d}.txt').write_text('')
    kitti_ap(capsys, labels, results, '--json', path)
    again = json.loads(path.read_text())
    assert {**again, 'counts': 0} == {**data, 'counts': 0}
    assert again['counts']['frames_without_result_file'] == 0


def test_a_split_selects_the_frames_and_the_rest_is_said(partly_answered, tmp_path, capsys):
    labels, results = partly_answered
    split = tmp_path / 'val.txt'
    split.write_text('000001\n')
    printed = kitti_ap(capsys, labels, results, '--split', split)
    assert '1 frames\n' in printed
    assert 'note: 1 result files are not in' in printed
    split.write_text('000001\n000011\n')
    line = error_line(capsys, 'kitti-ap', labels, results, '--split', split)
    assert '1 of 2 frames of the split have no label file (000011)' in line


def test_result_files_that_no_label_belongs_to_are_an_error(partly_answered, tmp_path, capsys):
    labels, results = partly_answered
    (results / '0000001.txt').write_text('')
    line = error_line(capsys, 'kitti-ap', labels, results, '--missing', 'empty')
    assert f'1 of 3 result files belong to no label file in {labels} (0000001)' in line
    (tmp_path / 'none').mkdir()
    assert 'no label file' in error_line(capsys, 'kitti-ap', tmp_path / 'none', results)


def test_the_shared_case(mono3d_data, capsys):
    """40 files with 10 cars each, 8 result files, all right; or 32 empty ones beside them."""
    case = mono3d_data.parent / 'cases/stl/E3'
    if not case.is_dir():
        pytest.skip(f'{case} is absent')
    line = error_line(capsys, 'kitti-ap', case / 'gt', case / 'res_only')
    assert '32 of 40 label files have no result file' in line
    outputs = [
        kitti_ap(capsys, case / 'gt', case / 'res_only', '--missing', 'empty'),
        kitti_ap(capsys, case / 'gt', case / 'res_all'),
    ]
    for printed in outputs:
        assert re.search(r'^Car +400 +400 +400 +400 +80$', printed, re.M)
        assert re.search(r'^Car +3d +AP40 +0.70 strict +20.00', printed, re.M)


#: Changes of a car that leave no label to be found, and how the line names the reason.
UNCOUNTED = {
    'occluded above 2: 3': {'occluded': 4},
    'truncated above 0.5: 3': {'truncated': 20.0},
    'lower than 25 px: 3': {'box_px': [0.0] * 4},
    'Vehicle 3': {'name': 'Vehicle'},
}


@pytest.mark.parametrize('reason', UNCOUNTED)
def test_labels_of_which_none_is_counted_are_an_error(tmp_path, capsys, reason):
    frames = {f'{i:06d}': [box(**UNCOUNTED[reason])] for i in range(3)}
    labels = write_frames(tmp_path / 'labels', frames, score=False)
    line = error_line(capsys, 'kitti-ap', labels, write_frames(tmp_path / 'results', frames))
    assert 'none of 3 labels in 3 frames is counted' in line
    assert reason in line
    assert 'scored are Car, Pedestrian, Cyclist' in line


def test_empty_labels_and_foreign_classes_are_an_error(tmp_path, capsys):
    labels = write_frames(tmp_path / 'labels', {'000000': []}, score=False)
    results = write_frames(tmp_path / 'results', {'000000': [box('Bus')]})
    line = error_line(capsys, 'kitti-ap', labels, results)
    assert 'none of 0 labels in 1 frames is counted' in line
    assert 'all label files are empty' in line
    labels = write_frames(tmp_path / 'cars', {'000000': [box()]}, score=False)
    line = error_line(capsys, 'kitti-ap', labels, results)
    assert 'no class in common: labels of Car are counted, but the detections have Bus' in line


def test_a_zero_never_comes_without_a_note(tmp_path, capsys):
    labels = {'000000': [box(), box('Cyclist', u=300, occluded=3), box('Van'), box('Vehicle')]}
    folder = write_frames(tmp_path / 'labels', labels, score=False)
    results = write_frames(tmp_path / 'results', {'000000': [box('Bus'), box('Cyclist')]})
    with pytest.raises(SystemExit):  # cars are counted, cyclists are detected
        main.main(['kitti-ap', str(folder), str(results)])
    capsys.readouterr()
    (results / '000000.txt').write_text('')
    printed = kitti_ap(capsys, folder, results)
    notes = [line for line in printed.splitlines() if line.startswith('note: ')]
    assert notes == [
        'note: Car: no detections, so that its AP is 0',
        'note: Pedestrian: no labels, so that its AP of 0 means nothing',
        'note: Cyclist: none of 1 labels is counted at any difficulty (occluded above 2: 1), so'
        ' that its AP of 0 means nothing',
        'note: not scored: labels of Van 1 (ignored beside Car), Vehicle 1',
    ]


def test_counts_by_hand():
    """Heights, occlusion and truncation at the limits of each difficulty; names in any case."""
    rows = [
        box('car', height_px=40.0),
        box('Car', height_px=39.0),
        box('Car', height_px=24.0),
        box('Car', occluded=1),
        box('CAR', occluded=2, truncated=0.5),
        box('Car', truncated=0.51),
        box('DontCare'),
        box('Tram'),
    ]
    counts = count_objects([frame(*rows), frame()], [frame(box('tram')), frame()], ('Car',))
    car = counts.by_class['Car']
    assert (counts.frames, car.labels, car.valid, car.detections) == (2, 6, (1, 3, 4), 0)
    assert list(counts.by_class) == ['Car', 'Pedestrian', 'Cyclist', 'Tram', 'tram']
    data = json.loads(json.dumps(counts.to_json()))
    assert data['labels']['Car']['ignored'] == {'easy': 5, 'moderate': 3, 'hard': 2}
    assert EvaluationCounts.from_json(data) == counts


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('counts') / 'training', frames=2)


def save_model(path, classes=('Car',), change=None, **provenance):
    """Write an untrained small MonoDLE; `change` edits its weights in place."""
    sizes = ((1.5, 1.6, 3.9),) * len(classes)
    options = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
    options['mean_size_hwl_m'] = sizes
    spec = ModelSpec(classes, InputSpec(160, 64), 'monodle', options, provenance)
    torch.manual_seed(0)
    detector = model_file.build_detector(spec)
    for parameter in detector.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if change:
        change(detector)
    model_file.save_model(path, detector, spec)
    return path


def test_a_model_of_other_classes_is_an_error(scenes, tmp_path, capsys):
    model = save_model(tmp_path / 'bus.safetensors', ('Bus',))
    line = error_line(capsys, 'evaluate', model, scenes, '--device', 'cpu')
    assert 'no class in common: labels of Car are counted, but the model has Bus' in line
    model = save_model(tmp_path / 'both.safetensors', ('Bus', 'Car'))
    main.main(['evaluate', str(model), str(scenes), '--device', 'cpu'])
    printed = capsys.readouterr().out
    assert 'note: not scored: the classes Bus of the model' in printed
    assert 'note: Pedestrian: no labels' in printed


def test_both_protocols_are_named_and_written(scenes, tmp_path, capsys):
    model = save_model(tmp_path / 'car.safetensors')
    argv = ['evaluate', str(model), str(scenes), '--device', 'cpu']
    main.main([*argv, '--json', str(tmp_path / 'ap.json')])
    printed = capsys.readouterr().out
    assert re.search(r'^protocol ours, detections: Car \d+$', printed, re.M)
    assert re.search(r'^protocol published, detections: (none|Car \d+)$', printed, re.M)
    assert 'heights of at least 0.2 (xinzhuma/monodle), no suppression of boxes' in printed
    data = json.loads((tmp_path / 'ap.json').read_text())
    assert data['published']['Car'].keys() == data['ap']['Car'].keys()
    counts = data['counts']
    assert counts['frames'] == 2
    assert counts['labels']['Car']['valid'].keys() == {'easy', 'moderate', 'hard'}


def test_predict_draws_above_the_scores_of_the_header(scenes, tmp_path, capsys):
    """And counts boxes, those that are drawn, and the pictures that have some."""
    plain = save_model(tmp_path / 'plain.safetensors')
    argv = ['--device', 'cpu', '--json', str(tmp_path / 'counts.json'), '--out']

    def counts_of(model, out, *options):
        main.main(['predict', str(model), str(scenes), *argv, str(tmp_path / out), *options])
        data = json.loads((tmp_path / 'counts.json').read_text())['counts']
        return data, capsys.readouterr().out

    data, printed = counts_of(plain, 'a')
    assert 'no score threshold for Car: boxes are drawn from 0.1' in printed
    found = [kitti.read_results(path).score for path in sorted((tmp_path / 'a/results').iterdir())]
    scores = np.concatenate(found)
    assert data['detections'] == {'Car': len(scores)}
    middle = float(np.median(scores))
    model = save_model(
        tmp_path / 'own.safetensors', ('Car',), copy_from(plain), score_thresholds={'Car': middle}
    )
    data, printed = counts_of(model, 'b')
    drawn = int((scores >= middle - 1e-6).sum())
    assert 0 < drawn < len(scores)
    assert abs(data['drawn']['Car'] - drawn) <= 1  # files hold six decimals
    pictures = sum((each >= middle).any() for each in found)
    assert data['pictures_with_boxes'] == pictures
    assert f'{len(scores)} boxes found in 2 frames, {data["drawn"]["Car"]} drawn' in printed
    data, printed = counts_of(model, 'c', '--score', '0.99')
    assert data['drawn'] == {'Car': 0}
    assert f'note: no picture has a box: the highest score is {scores.max():.3f}' in printed


def copy_from(path):
    """Return a change of save_model that copies the weights of a model file."""
    spec = model_file.read_model_spec(path)
    return lambda detector: detector.load_state_dict(
        model_file.load_detector(path, spec).state_dict()
    )


def poison(name, value):
    def change(detector):
        detector.state_dict()[name].fill_(value)

    return change


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite_are_refused(scenes, tmp_path, capsys, value):
    path = save_model(tmp_path / 'nan.safetensors', change=poison('heads.depth.0.bias', value))
    for command in ('evaluate', 'predict', 'export'):
        rest = (
            [tmp_path / 'out.safetensors'] if command == 'export' else [scenes, '--device', 'cpu']
        )
        line = error_line(capsys, command, path, *rest)
        assert f'{path}: 1 of ' in line
        assert 'tensors hold NaN or infinite weights, first heads.depth.0.bias' in line


def test_export_refuses_weights_that_half_precision_cannot_hold(tmp_path):
    path = save_model(tmp_path / 'big.safetensors', change=poison('heads.depth.0.weight', 1e5))
    with pytest.raises(ModelFileError, match=r'half precision.*first heads\.depth\.0\.weight'):
        model_file.convert_to_half(path, tmp_path / 'half.safetensors')
    assert not (tmp_path / 'half.safetensors').exists()


def test_outputs_that_are_not_finite_are_counted(scenes, tmp_path, capsys):
    """Finite weights with offsets so great that every centre is infinitely far aside."""
    path = save_model(tmp_path / 'far.safetensors', change=poison('heads.offset_3d.2.bias', 3e38))
    line = error_line(capsys, 'evaluate', path, scenes, '--device', 'cpu')
    assert re.search(r'no detection is left: \d+ objects of the network are not finite', line)
    out = str(tmp_path / 'out')
    main.main(['predict', str(path), str(scenes), '--device', 'cpu', '--out', out])
    assert re.search(r'note: \d+ detections were dropped', capsys.readouterr().out)
