"""evaluate_bag runs a model file of a runtime that was registered with one line."""

import json

import numpy as np
import toy_runtime
from frame_results import objects
from kitti_scenes import HEIGHT, P2, WIDTH, make_scenes

from mono3d_ros.bag_evaluation import evaluate_bag
from mono3d_ros.bags import kitti_to_bag
from mono3d_ros.bags.bag_io import BagReader
from stl_core.data.sources import kitti
from stl_core.geometry import project_objects, warp_P
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.runtimes import RUNTIMES
from stl_core.preprocessing import InputSpec, letterbox_affine

SPEC = ModelSpec(kitti.CLASSES, InputSpec(160, 64), 'toy')


def test_every_image_has_the_boxes_of_the_toy(tmp_path, monkeypatch):
    monkeypatch.setitem(RUNTIMES, '.toy', toy_runtime.RUNTIME)
    scenes, bag, out = make_scenes(tmp_path / 'kitti', 2), tmp_path / 'bag', tmp_path / 'out'
    assert kitti_to_bag.main([str(scenes), str(bag)]) == 0
    P = warp_P(P2, letterbox_affine(WIDTH, HEIGHT, SPEC.input))
    model = toy_runtime.write_toy(tmp_path / 'model.toy', SPEC, project_objects(objects(2), P))
    assert evaluate_bag.main([str(bag), str(out), '--model', str(model)]) == 0
    with BagReader(out / 'answers') as reader:
        arrays = [reader.decode(each) for each in reader.messages(['/detector/detections'])]
    assert len(arrays) == 2
    for array in arrays:
        centers = [each.bbox.center.position for each in array.detections]
        np.testing.assert_allclose(
            [[each.x, each.y, each.z] for each in centers], objects(2).center_m, atol=1e-6
        )
    assert json.loads((out / 'figures.json').read_text())['model'] == 'model.toy'
