"""A study of replicates that really trains: small networks on drawn scenes."""

import json

import pytest
import yaml
from safetensors.torch import load_file
from small_run import assert_equal_weights
from small_stages import make_scenes_with_depth, plan

from stl_core.experiments import study, study_config, study_table
from stl_core.files import sha256_of


@pytest.fixture
def grid(tmp_path):
    """Two replicates of a teacher, a base and a method, judged on frames of their own."""
    scenes = make_scenes_with_depth(tmp_path / 'scenes', 6)
    for name, ids in (('learn', '0 1'), ('choose', '2 3'), ('judge', '4 5')):
        ids = '\n'.join(f'00000{i}' for i in ids.split())
        (scenes / f'{name}.txt').write_text(ids)
    data = plan(scenes, tmp_path / 'planned', epochs=1)
    data['train'] = {**data['train'], 'split': f'{scenes}/learn.txt'}
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(data, sort_keys=False))
    return study_config.StudyConfig(
        plan=str(tmp_path / 'plan.yaml'),
        stage='distil',
        methods={
            'response': {
                'distill': {'losses': {'response': {}}},
                'weights': {'distill/response': 1.0},
            },
        },
        replicates=(1, 2),
        choose=f'{scenes}/choose.txt',
        judge=f'{scenes}/judge.txt',
        out=str(tmp_path / 'runs'),
        table=str(tmp_path / 'table.csv'),
    )


def test_replicates_have_their_teachers_and_resume(grid, tmp_path, one_thread):
    study.run_study(grid)
    table, runs = tmp_path / 'table.csv', tmp_path / 'runs'
    text = table.read_text()
    assert len(study_table.read_table(table)) == 6
    assert not (tmp_path / 'planned').exists()
    teachers = [runs / f'{each}/stages/teacher/student.safetensors' for each in (1, 2)]
    for replicate, teacher in zip((1, 2), teachers, strict=True):
        done = json.loads((runs / f'{replicate}/methods/response/done.json').read_text())
        assert done['distill']['teacher_sha256'] == sha256_of(teacher)
        assert done['seed'] == replicate
        assert done['val']['split'].endswith('judge.txt')
    weights = [load_file(each) for each in teachers]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    # stopped in replicate 2, before the row of its last run; its stages are kept
    table.write_text(''.join(text.splitlines(True)[:-1]))
    response = runs / '2/methods/response'
    before = load_file(response / 'student.safetensors')
    for path in sorted(response.rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    study.run_study(grid)
    assert table.read_text() == text
    assert_equal_weights(before, load_file(response / 'student.safetensors'))
