"""VDA and TSRD between real detectors: gradients on the weights that ship, and what ships."""

import pytest
import torch
from small_detectors import SMALL, H, W, batch, build

from stl_core.distill.distiller import Distiller, DistillLayersConfig
from stl_core.distill.losses.tsrd import TsrdConfig
from stl_core.distill.losses.vda import VdaConfig
from stl_core.models import DETECTORS
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import Batch, NetworkInput
from stl_core.tensors.reductions import SINGLE_PART

VDA = {'vda': VdaConfig(bins=20, width=16)}
#: Losses of a detector that DK3D consists of, without CPL and ASB.
CASES = [
    ('monodle', VDA),
    ('monocon', VDA),
    *((name, {'tsrd': TsrdConfig()}) for name in ('monodle', 'monocon', 'monodetr')),
    ('monodetr', {'tsrd': TsrdConfig(level='queries')}),
]
every_case = pytest.mark.parametrize(
    ('name', 'losses'),
    CASES,
    ids=[f'{name} {next(iter(each))}' for name, each in CASES[:-1]] + ['queries'],
)


def privileged(name):
    """Return a teacher of the student's architecture whose given depth changes its features."""
    torch.manual_seed(0)
    entry = DETECTORS[name]
    net = entry.detector(entry.config(**SMALL[name]), 3, 3, given_depth=True)
    if name != 'monodetr':
        torch.nn.init.normal_(net.depth_association.output.weight, std=0.1)
    return net


def a_batch(count=4):
    """Return a batch whose objects' centres are painted into their boxes, and the depth."""
    image, P, targets = batch(2, count)
    image = ((image * 40) + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    given_m = torch.zeros(2, H, W)
    for row, slot in targets.valid.nonzero().tolist():
        left, top, right, bottom = targets.box_px[row, slot].clamp(min=0).int().tolist()
        given_m[row, top:bottom, left:right] = targets.depth_m[row, slot]
    return Batch(image=image, P=P, targets=targets, ids=('a', 'b')), given_m


def distiller(name, losses, given_m, teacher=None, **options):
    def pixels(each):
        return normalization.network_input(each, InputSpec())

    def given(each):
        inputs = pixels(each)
        return NetworkInput(inputs.image, inputs.P, given_m)

    return Distiller(
        build(name),
        teacher or privileged(name),
        losses,
        DistillLayersConfig(),
        student_input=pixels,
        teacher_input=given,
        privileged=True,
        **options,
    ).train()


@every_case
def test_each_loss_has_gradients_on_the_weights_that_ship_alone(name, losses):
    data, given_m = a_batch()
    model, key = distiller(name, losses, given_m), next(iter(losses))
    loss = model(data, 5.0, SINGLE_PART)[f'distill/{key}']
    assert loss.isfinite()
    assert loss > 1e-3
    loss.backward()
    parts = {
        part for part, p in model.student.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert any(part.startswith('backbone') for part in parts)
    assert model.student.state_dict().keys() == build(name).state_dict().keys()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert len(frozen) >= len(list(model.teacher.parameters()))
    assert all(p.grad is None for p in frozen)


@every_case
def test_every_trained_weight_is_in_the_graph_also_without_objects(name, losses):
    data, given_m = a_batch(count=0)
    model = distiller(name, losses, given_m)
    sum(model(data, 0.0, SINGLE_PART).values()).backward()
    for part, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, part
            assert p.grad.isfinite().all(), part


@every_case
def test_bf16_networks_give_about_the_same_float32_loss(name, losses):
    data, given_m = a_batch()
    key = f'distill/{next(iter(losses))}'
    torch.manual_seed(3)
    exact = distiller(name, losses, given_m)(data, 5.0, SINGLE_PART)[key]
    torch.manual_seed(3)
    model = distiller(name, losses, given_m, precision='bf16')
    value = model(data, 5.0, SINGLE_PART)[key]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=0.1, atol=0)
    value.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(each.isfinite().all() for each in grads)


def test_training_the_side_branch_reduces_its_loss():
    data, given_m = a_batch()
    model = distiller('monodle', VDA, given_m)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 2e-3)
    values = []
    for step in range(12):
        loss = model(data, 5.0 + step, SINGLE_PART)['distill/vda']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append({name: float(each) for name, each in model.step_metrics().items()})
    first, last = values[0], values[-1]
    assert last['distill/vda/depth'] < 0.8 * first['distill/vda/depth']
    assert last['distill/vda/depth_error_m'] < first['distill/vda/depth_error_m']


def test_detectors_that_cannot_are_refused_by_name():
    _, given_m = a_batch()
    with pytest.raises(ValueError, match='vda: teacher: MonoDETR without depth_as'):
        distiller('monodetr', VDA, given_m)
    with pytest.raises(ValueError, match='vda: teacher: MonoDLE without depth_as'):
        distiller('monodle', VDA, given_m, teacher=build('monodle'))
    with pytest.raises(ValueError, match="tsrd: level 'queries': MonoCon has no queries; choose"):
        distiller('monocon', {'tsrd': TsrdConfig(level='queries')}, given_m)
    with pytest.raises(ValueError, match="tsrd: level 'c16' of the student lies upstream"):
        distiller('monodetr', {'tsrd': TsrdConfig(level='c16')}, given_m)
