"""evaluate_bag with a detector that is registered by one line."""

import json

import toy_detector
from kitti_scenes import make_scenes

from mono3d_ros.bag_evaluation import evaluate_bag
from mono3d_ros.bags import kitti_to_bag
from stl_core.models import DETECTORS


def test_a_bag_is_evaluated_with_a_new_detector(tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, 'toy', toy_detector.ENTRY)
    model = toy_detector.save_untrained(tmp_path / 'toy.safetensors')
    scenes, bag = make_scenes(tmp_path / 'kitti', frames=3), tmp_path / 'bag'
    assert kitti_to_bag.main([str(scenes), str(bag)]) == 0
    arguments = [bag, tmp_path / 'out', '--model', model, '--device', 'cpu', '--score', 0.01]
    assert evaluate_bag.main([str(each) for each in arguments]) == 0
    figures = json.loads((tmp_path / 'out/figures.json').read_text())
    assert figures['labelled_frames'] == 3
    assert sum(figures['boxes'].values()) > 0
