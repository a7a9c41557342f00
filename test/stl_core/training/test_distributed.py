"""Training with two processes on the CPU equals training with one process."""

import csv
import json

import pytest
import torch
from kitti_scenes import make_scenes
from process_groups import join_all, start_two
from small_run import assert_equal_weights, weights_of
from small_stages import make_scenes_with_depth, plan
from training_processes import (
    distributed_config,
    fit,
    log_skipped_step,
    normalise,
    run_plan,
    save_normalised,
)

from stl_core.cli import main
from stl_core.models.centernet.attentive_norm import AttentiveNorm
from stl_core.training import distributed, trainer
from stl_core.training.resolved_config import resolve_config

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=7)


@pytest.fixture(scope='module')
def runs(scenes, tmp_path_factory):
    """Return output folders of the same run with one process and with two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ('one', 'two'))
    workers = start_two(fit, scenes, two)
    trainer.fit(resolve_config(distributed_config(scenes, one, eval_every=2)))
    join_all(workers)
    return one, two


@pytest.fixture(scope='module')
def plans(tmp_path_factory):
    """Return folders of the same multi-stage run with one process and with two, and its JSON."""
    scenes = make_scenes_with_depth(tmp_path_factory.mktemp('depth'), frames=7)
    one, two = (tmp_path_factory.mktemp(name) for name in ('one', 'two'))
    for out in (one, two):
        # AdamW's steps do not depend on the size of a gradient: a higher rate would amplify
        # rounding differences of the random layers between student and teacher
        data = plan(scenes, out) | {'batch_size': 5, 'optim': {'lr': 1e-4, 'freeze_norm_at': 0.0}}
        (out / 'plan.yaml').write_text(json.dumps(data))
    workers = start_two(run_plan, two / 'plan.yaml', two)
    main.main(['train', str(one / 'plan.yaml')])
    join_all(workers)
    return one, two


def read_table(out, name):
    """Return the rows of a CSV table, without the columns that depend on time."""
    with (out / name).open() as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if k != 'images_per_s'} for row in rows]


def test_two_processes_have_the_losses_of_one(runs):
    """Batches of 4 and 3 images are split into 2 + 2 and 2 + 1, with unequal object counts."""
    one, two = (read_table(out, 'curves.csv') for out in runs)
    assert len(one) == 3
    assert one[-1]['total'] < one[0]['total']
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


def test_two_processes_have_the_weights_of_one(runs):
    one, two = (torch.load(out / 'last.pt', weights_only=True) for out in runs)
    for a, b in ((one['model'], two['model']), (one['mean']['module'], two['mean']['module'])):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5, msg=name)


def test_two_processes_validate_once(runs):
    one, two = (read_table(out, 'val.csv') for out in runs)
    assert [row['epoch'] for row in two] == [2, 3]
    assert sorted(p.name for p in runs[1].iterdir()) == sorted(p.name for p in runs[0].iterdir())
    assert len(one) == len(two)


def test_one_process_can_resume_a_run_of_two(runs, scenes):
    """Batches and checkpoints do not depend on the number of processes."""
    before = weights_of(runs[1])
    results = trainer.fit(resolve_config(distributed_config(scenes, runs[1], eval_every=2)))
    assert results.ap.by_class.keys() == {'Car', 'Pedestrian', 'Cyclist'}
    assert_equal_weights(weights_of(runs[1]), before)
    assert [row['epoch'] for row in read_table(runs[1], 'curves.csv')] == [1, 2, 3]


def test_two_processes_have_the_losses_of_one_in_all_stages(plans):
    for stage in ('teacher', 'base', 'distil'):
        one, two = (read_table(out / stage, 'curves.csv') for out in plans)
        assert len(one) == 2
        for a, b in zip(one, two, strict=True):
            # ranks are those among the objects of a part, so that their correlation is no mean
            # over the objects of the step
            for name in [name for name in a if name.endswith('/gate_distance_rank')]:
                assert max(abs(a.pop(name)), abs(b.pop(name))) <= 1
            # the runs have separate teachers and base models, so rounding differences add up
            assert a == pytest.approx(b, rel=5e-4, abs=1e-6), stage
    assert {'distill/feature', 'distill/relation', 'distill/response'} <= one[0].keys()


def test_rank_0_alone_writes_the_metrics_of_all_stages(plans):
    out = plans[1]
    metrics = json.loads((out / 'first0.json').read_text())
    assert metrics.keys() == {'teacher', 'base', 'distil'}
    assert json.loads((out / 'again0.json').read_text()) == metrics
    assert not list(out.glob('*1.json'))


def test_a_single_process_needs_no_group():
    with distributed.process_group('cpu') as device:
        model = torch.nn.Linear(2, 2)
        assert distributed.wrap_ddp(model) is model
        assert distributed.convert_sync_batchnorm(model, device) is model
        assert distributed.broadcast_scalar(3.0, device) == 3.0
        with distributed.no_gradient_sync(model):
            pass


def attentive_norm_cases():
    """Return AttentiveNorms, for GPUs too, with images for two processes, uneven or one each."""
    for number, sizes in enumerate([(1, 2), (1, 1), (3, 1)] * 2):
        torch.manual_seed(number)
        maps, factor = torch.randn(2, sum(sizes), 6, 5, 7, dtype=torch.float64)
        norm = AttentiveNorm(6, parts=4).double()
        if number >= 3:  # these need a GPU: a process that entered one on the CPU would fail
            norm = torch.nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        yield {'norm': norm, 'maps': 3 * maps + 1, 'factor': factor, 'sizes': sizes}


def test_attentive_norm_with_uneven_processes_equals_one_process(tmp_path):
    cases = list(attentive_norm_cases())
    torch.save(cases, tmp_path / 'cases.pt')
    join_all(start_two(normalise, tmp_path))
    for number, case in enumerate(cases):
        save_normalised(
            plain_norm_of(case['norm']), case['maps'], case['factor'], tmp_path / 'one.pt'
        )
        one, *two = (
            torch.load(tmp_path / f'{name}.pt', weights_only=True)
            for name in ('one', f'{number}_0', f'{number}_1')
        )
        for key in ('out', 'maps'):
            torch.testing.assert_close(torch.cat([each[key] for each in two]), one[key])
        for name, grad in one['grads'].items():
            torch.testing.assert_close(sum(each['grads'][name] for each in two), grad)
        for each in two:
            for name, value in one['buffers'].items():
                torch.testing.assert_close(each['buffers'][name], value)
        assert one['buffers']['attention_norm.num_batches_tracked'] == 1


def plain_norm_of(converted):
    """Return an AttentiveNorm with plain norms and the same weights."""
    norm = AttentiveNorm(6, parts=4).double()
    norm.load_state_dict(converted.state_dict())
    return norm


def test_the_frames_of_all_processes_are_logged_once(tmp_path):
    join_all(start_two(log_skipped_step, tmp_path))
    assert (tmp_path / '0.txt').read_text().splitlines()[1:] == [
        'epoch 3: step 2 skipped, frames frame_1_0 frame_1_1'
    ]
    assert (tmp_path / '1.txt').read_text() == ''
