import pytest
import toy_runtime
from frame_results import objects
from kitti_scenes import P2

from mono3d_ros.bag_evaluation import evaluate_bag
from mono3d_ros.bags import bag_to_kitti
from stl_core.data.sources import kitti
from stl_core.geometry import project_objects
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.runtimes import RUNTIMES
from stl_core.preprocessing import InputSpec


@pytest.fixture
def run_tool(tmp_path, monkeypatch):
    """Return a function that runs a bag tool, by name, on tmp_path/bag into tmp_path/out."""
    monkeypatch.setitem(RUNTIMES, '.toy', toy_runtime.RUNTIME)
    spec = ModelSpec(kitti.CLASSES, InputSpec(160, 64), 'toy')
    path = tmp_path / 'model.toy'
    model = toy_runtime.write_toy(path, spec, project_objects(objects(1), P2))

    def run(tool, *options):
        paths = [str(tmp_path / 'bag'), str(tmp_path / 'out')]
        if tool == 'bag_to_kitti':
            return bag_to_kitti.main([*paths, *options])
        return evaluate_bag.main([*paths, '--model', str(model), *options])

    return run
