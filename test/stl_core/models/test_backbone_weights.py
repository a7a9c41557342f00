"""ImageNet weights of backbones: from a file, from caches, and without network."""

import threading
import urllib.request

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv

from stl_core.models import backbone_weights
from stl_core.models.backbone import STRIDES, Backbone

NAME = 'mobilenetv4_conv_small'
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def model():
    """The whole timm model, with the weights that the files of these tests hold."""
    torch.manual_seed(5)
    return timm.create_model(NAME).eval()


@pytest.fixture
def backbone():
    torch.manual_seed(1)
    return Backbone(NAME, False, 3).eval()


@pytest.fixture
def no_network(monkeypatch):
    def fail(*_, **__):
        pytest.fail('asked the network')

    monkeypatch.setattr(urllib.request, 'urlopen', fail)
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', fail)


def as_safetensors(state, folder):
    save_file(state, folder / 'weights.safetensors')
    return folder / 'weights.safetensors'


def as_checkpoint(state, folder):
    wrapped = {'state_dict': {f'module.{key}': each for key, each in state.items()}, 'epoch': 3}
    torch.save(wrapped, folder / 'weights.pth')
    return folder / 'weights.pth'


def without_classifier(state, folder):
    torch.save({k: v for k, v in state.items() if 'classifier' not in k}, folder / 'weights.bin')
    return folder / 'weights.bin'


def of_ten_classes(state, folder):
    other = {'classifier.weight': torch.zeros(10, 1280), 'classifier.bias': torch.zeros(10)}
    torch.save(state | other, folder / 'weights.pth')
    return folder / 'weights.pth'


@pytest.mark.parametrize(
    'write', [as_safetensors, as_checkpoint, without_classifier, of_ten_classes]
)
def test_a_file_gives_the_maps_of_the_whole_model(write, model, backbone, tmp_path, no_network):
    backbone.load_weights(write(model.state_dict(), tmp_path))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(image)
        expected = model.forward_intermediates(image, intermediates_only=True)
    by_stride = {64 // each.shape[2]: each for each in expected}
    for stride, each in zip(STRIDES, maps, strict=True):
        torch.testing.assert_close(each, by_stride[stride])


def test_the_first_layer_is_adapted_to_two_channels(model, tmp_path):
    backbone = Backbone(NAME, False, 2)
    backbone.load_weights(as_safetensors(model.state_dict(), tmp_path))
    expected = adapt_input_conv(2, model.conv_stem.weight.detach())
    torch.testing.assert_close(backbone.body.conv_stem.weight.detach(), expected)


def test_frozen_parameters_stay_frozen(model, backbone, tmp_path):
    backbone.freeze_early_stages()
    frozen = [each.requires_grad for each in backbone.parameters()]
    assert len(set(frozen)) == 2
    backbone.load_weights(as_safetensors(model.state_dict(), tmp_path))
    assert [each.requires_grad for each in backbone.parameters()] == frozen


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state.pop('conv_stem.weight'), 'Missing key.*conv_stem.weight'),
        (lambda state: state.update({'x.y': torch.zeros(1)}), 'Unexpected key.*x.y'),
        (
            lambda state: state.update({'bn1.weight': torch.zeros(3)}),
            'size mismatch for bn1.weight',
        ),
    ],
)
def test_weights_of_another_network_are_one_line(change, message, model, backbone, tmp_path):
    state = dict(model.state_dict())
    change(state)
    path = as_safetensors(state, tmp_path)
    with pytest.raises(ValueError, match=f"{path}: not the weights of backbone '{NAME}'") as err:
        backbone.load_weights(path)
    err.match(message)
    assert '\n' not in str(err.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'an empty file, not weights'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer'),
        (b'<!DOCTYPE html>\n<html>', 'an HTML page, perhaps of a failed download'),
        (b'PK\x03\x04 cut', 'not readable weights'),
        (b'hello, world, this is text', 'not readable weights'),
    ],
)
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_a_damaged_file_is_one_line(content, message, suffix, backbone, tmp_path):
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as err:
        backbone.load_weights(path)
    assert str(err.value).startswith(f'{path}: ')
    assert '\n' not in str(err.value)


@pytest.mark.parametrize('write', [as_safetensors, as_checkpoint])
def test_weights_that_are_not_finite_are_refused(write, model, backbone, tmp_path):
    state = {key: each.clone() for key, each in model.state_dict().items()}
    state['bn1.weight'][3] = torch.nan
    path = write(state, tmp_path)
    message = rf'{path}: 1 of {len(state)} tensors are not finite, first bn1\.weight$'
    with pytest.raises(ValueError, match=message):
        backbone.load_weights(path)


def test_a_missing_file_and_a_list_are_one_line(backbone, tmp_path):
    with pytest.raises(ValueError, match='no such file; expected weights'):
        backbone.load_weights(tmp_path / 'no.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth: expected a state dict of tensors'):
        backbone.load_weights(tmp_path / 'list.pth')


# --- pretrained: true ----------------------------------------------------------------------------


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'torch'))
    return tmp_path


def test_cached_weights_are_used_without_network(model, empty_caches, no_network):
    config = timm.get_pretrained_cfg(NAME)
    repository = empty_caches / f'hub/models--{config.hf_hub_id.replace("/", "--")}'
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs/main').write_text('a' * 40)
    snapshot = repository / 'snapshots' / ('a' * 40)
    snapshot.mkdir(parents=True)
    save_file(model.state_dict(), snapshot / 'model.safetensors')
    backbone = Backbone(NAME, True, 3)
    torch.testing.assert_close(backbone.body.conv_stem.weight, model.conv_stem.weight)


def test_offline_is_one_line_that_names_the_file_and_the_ways_out(
    empty_caches, no_network, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='HF_HUB_OFFLINE is set') as err:
        Backbone(NAME, True, 3)
    hub_id = timm.get_pretrained_cfg(NAME).hf_hub_id
    for part in (f'{hub_id}/resolve/main/model.safetensors', 'backbone_weights=FILE', 'd=false'):
        assert part in str(err.value)
    assert '\n' not in str(err.value)


def test_a_server_that_does_not_answer_is_given_up(empty_caches, monkeypatch):
    """The connection would wait for ever; the thread that waits ends with the test."""
    over = threading.Event()

    def hang(*_, **__):
        over.wait()
        raise OSError('over')

    monkeypatch.setattr(urllib.request, 'urlopen', hang)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(backbone_weights, 'ANSWER_SECONDS', 0.05)
    with pytest.raises(ValueError, match=r'no answer within 0\.05 s\); give backbone_weights='):
        Backbone(NAME, True, 3)
    over.set()


def test_a_refused_connection_falls_back_to_the_address_of_the_file(empty_caches, monkeypatch):
    asked = []

    def refuse(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError('Connection refused')

    monkeypatch.setattr(urllib.request, 'urlopen', refuse)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    with pytest.raises(ValueError, match=r'resnet50-\w+\.pth: Connection refused\); give'):
        Backbone('resnet50.tv_in1k', True, 3)
    assert [each.rpartition('/')[2] for each in asked] == [
        'model.safetensors',
        'resnet50-0676ba61.pth',
    ]
