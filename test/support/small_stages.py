"""A small multi-stage run (teacher, base, distilled student) and frames with depth for tests."""

import numpy as np
from kitti_scenes import HEIGHT, WIDTH, make_scenes

from stl_core.data import depth_maps
from stl_core.data.sources import kitti

FOLDERS = ('image_2', 'calib', 'label_2', 'depth_2')
LOSSES = {'feature': {}, 'relation': {}, 'response': {'half_sigma_m': 2.0}}


def make_scenes_with_depth(root, frames):
    """Make frames whose depth maps hold the depth of each object in its box, 0 elsewhere."""
    root = make_scenes(root, frames=frames)
    (root / 'depth_2').mkdir()
    for path in sorted((root / 'label_2').iterdir()):
        depth_m, labels = np.zeros((HEIGHT, WIDTH), np.float32), kitti.read_labels(path)
        for row in np.argsort(-labels.center_m[:, 2]):
            left, top, right, bottom = labels.box_px[row].round().astype(int)
            depth_m[top:bottom, left:right] = labels.center_m[row, 2]
        depth_maps.write_depth(root / f'depth_2/{path.stem}.png', depth_m)
    return root


def plan(scenes, out, epochs=2):
    """Return a training configuration with the stages teacher, base and distil, as plain data."""
    frames = {'sources': [{k: str(scenes / k) for k in FOLDERS}], 'augment': {'crop': 0.5}}
    options = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
    options['virtual_focal_px'] = 0.0
    return {
        'detector': {'options': options},
        'input': {'width_px': 160, 'height_px': 64},
        'train': frames,
        'val': frames,
        'epochs': epochs,
        'batch_size': 2,
        'workers': 0,
        'eval_every': 0,
        'device': 'cpu',
        'stages': {
            'teacher': {
                'out': f'{out}/teacher',
                'input': {'depth': {'mean_m': 14.0, 'virtual_focal_px': 0.0}},
            },
            'base': {'out': f'{out}/base'},
            'distil': {
                'out': f'{out}/distil',
                'start': f'{out}/base/student.safetensors',
                'distill': {
                    'teacher': f'{out}/teacher/student.safetensors',
                    'losses': dict(LOSSES),
                    'layers': {'width': 16},
                },
                'weights': {f'distill/{name}': 1.0 for name in LOSSES},
            },
        },
    }
