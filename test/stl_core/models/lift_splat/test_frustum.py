"""Where image cells lie around the vehicle, against projection and BEVDepth's public code."""

import numpy as np
import pytest
import torch
from small_rigs import camera_pose, projection

from stl_core.geometry import project_points
from stl_core.models.lift_splat.frustum import (
    frustum_points,
    pixel_rays,
    pixels_to_rays,
    points_to_cells,
    voxel_index,
)
from stl_core.models.lift_splat.grid import BevGrid, DepthBins
from stl_core.tensors.positions import cell_centers_px

#: BEVDepth's grid and bins for ResNet-50 at 256x704.
GRID = BevGrid((-51.2, 51.2), (-51.2, 51.2), (-5.0, 3.0), 0.8)
BINS = DepthBins(2.0, 58.0, 0.5)


def tensors(P, pose):
    return torch.from_numpy(P)[None].double(), torch.from_numpy(pose)[None].double()


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('row_of_offsets', [(0, 0, 0), (45.0, -0.3, 0.005)])
def test_points_of_the_frustum_project_to_the_centres_of_their_cells(mirrored, row_of_offsets):
    """KITTI's P2 has a fourth column, with an offset in depth, too; a mirrored image has -f."""
    P = projection(700.0, (128, 352))
    P[:, 3] = row_of_offsets
    if mirrored:
        P = np.array([[-1, 0, 351], [0, 1, 0], [0, 0, 1.0]]) @ P
    pose = camera_pose(0.7, (1.2, -0.3, 1.6))
    rays = pixel_rays(*tensors(P, pose), (8, 22), (128, 352))
    points = frustum_points(*rays, BINS.centers_m())[0].double().numpy()
    in_camera = (points - pose[:3, 3]) @ pose[:3, :3]
    pixels, _ = project_points(in_camera, P)
    expected = cell_centers_px((8, 22), (128, 352), torch.device('cpu'), torch.float64).numpy()
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=5e-3)
    depths = BINS.centers_m().numpy()[:, None, None]
    np.testing.assert_allclose(in_camera[..., 2], np.broadcast_to(depths, (112, 8, 22)), atol=1e-4)


#: nuScenes-mini's scene-0103: focal length, principal point, pose; what get_geometry of
#: Megvii-BaseDetection/BEVDepth at d78c7b5 returns for it at (depth bin, row, column), with a
#: resize by 0.44, a crop of 140 rows, a rotation of the ground by 10 degrees and a scale of 1.03;
#: and the number of its points inside the grid by its truncation, and by rounding down.
CAMERAS = {
    'CAM_FRONT': (
        (1252.813102, 826.588115, 469.984663),
        [
            [0.010260208, 0.008433448, 0.999911799, 1.722005685],
            [-0.999872575, 0.012316256, 0.010155928, 0.004754533],
            [-0.01222952, -0.999888587, 0.008558741, 1.494912919],
            [0.0, 0.0, 0.0, 1.0],
        ],
        {
            (0, 0, 0): [3.519504, 2.023628, 1.823595],
            (40, 7, 20): [23.755567, 5.986885, -0.393687],
            (111, 15, 43): [66.784018, -24.367737, -18.617855],
        },
        (56117, 44154),
    ),
    'CAM_BACK': (
        (796.891063, 857.777433, 476.884899),
        [
            [0.00921541, -0.006800497, -0.999934413, 0.055246111],
            [0.99989479, 0.011264881, 0.009138433, 0.010788237],
            [0.011201996, -0.999913424, 0.006903592, 1.56794287],
            [0.0, 0.0, 0.0, 1.0],
        ],
        {
            (0, 0, 0): [-1.609298, -2.509421, 2.014583],
            (40, 7, 20): [-21.787165, -6.893792, -1.442537],
            (111, 15, 43): [-67.681303, 44.820191, -28.634448],
        },
        (47754, 33461),
    ),
}


def published_camera(name):
    (focal, cx, cy), pose, points, counts = CAMERAS[name]
    resize = np.array([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]])
    P = np.zeros((3, 4))
    P[:, :3] = resize @ [[focal, 0, cx], [0, focal, cy], [0, 0, 1]]
    angle = np.deg2rad(10)
    ground = 1.03 * np.eye(4)
    ground[:2, :2] = 1.03 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    ground[3, 3] = 1
    return P, ground @ pose, points, counts


def published_points(name):
    """Return our points at BEVDepth's pixels (linspace(0, W - 1, w)) and lower bin edges."""
    P, pose, *_ = published_camera(name)
    x, y = torch.linspace(0, 703, 44), torch.linspace(0, 255, 16)
    pixels = torch.stack([x.expand(16, 44), y[:, None].expand(16, 44)], -1).double()
    rays = pixels_to_rays(*tensors(P, pose), pixels)
    return frustum_points(*rays, torch.arange(2.0, 58.0, 0.5))[0]


@pytest.mark.parametrize('name', list(CAMERAS))
def test_at_their_pixels_and_depths_the_points_are_those_of_bevdepth(name):
    points, expected = published_points(name), published_camera(name)[2]
    for index, value in expected.items():
        np.testing.assert_allclose(points[index], value, atol=2e-5)


@pytest.mark.parametrize('name', list(CAMERAS))
def test_rounding_down_admits_fewer_points_than_bevdepths_truncation(name):
    """Its indices in (-1, 0) become 0: a border of one cell, and heights down to -13 m."""
    points = published_points(name).double()
    truncated_count, floor_count = published_camera(name)[3]
    position = (points - torch.tensor([-51.2, -51.2, -5.0])) / torch.tensor([0.8, 0.8, 8.0])
    limit = torch.tensor([128, 128, 1])
    truncated = position.int()
    assert int(((truncated >= 0) & (truncated < limit)).all(-1).sum()) == truncated_count
    ours = points_to_cells(points, GRID)
    assert int((ours < GRID.cells).sum()) == floor_count


def test_our_pixels_and_depths_are_the_middles_of_cells_and_bins():
    pixels = cell_centers_px((16, 44), (256, 704), torch.device('cpu'), torch.float64)
    assert pixels[0, 0].tolist() == [7.5, 7.5]
    assert pixels[15, 43].tolist() == [695.5, 247.5]
    assert BINS.centers_m()[[0, -1]].tolist() == [2.25, 57.75]
    assert BINS.count == 112


def test_rows_of_the_grid_run_to_the_left_and_columns_forward():
    points = torch.tensor([[0.1, 0.1, 0], [-51.1, -51.1, 0], [51.1, -51.1, 0], [0.1, 51.1, 0.0]])
    expected = [64 * 128 + 64, 0, 127, 127 * 128 + 64]
    assert points_to_cells(points, GRID).tolist() == expected


@pytest.mark.parametrize(
    'point', [(51.3, 0, 0), (-51.21, 0, 0), (0, 0, 3.01), (0, 0, -5.1), (np.nan, 0, 0)]
)
def test_points_outside_of_the_grid_or_its_heights_are_left_out(point):
    assert points_to_cells(torch.tensor([point]).float(), GRID).tolist() == [GRID.cells]


def test_the_rear_camera_with_another_focal_length_sees_the_same_distance():
    """nuScenes' rear camera has f = 800 px, the others 1260: a car 20 m ahead and one behind."""
    front, rear = (projection(f, (256, 704)) for f in (1260 * 0.44, 800 * 0.44))
    cells = []
    for P, heading in ((front, 0.0), (rear, np.pi)):
        pose = camera_pose(heading, (0, 0, 1.5))
        car = np.array([20.1 * np.cos(heading), 0.1 + 20.1 * np.sin(heading), 0.5])
        in_camera = (car - pose[:3, 3]) @ pose[:3, :3]
        pixel, _ = project_points(in_camera, P)
        rays = pixels_to_rays(*tensors(P, pose), torch.from_numpy(pixel)[None, None])
        point = frustum_points(*rays, torch.tensor([in_camera[2]]))[0, 0, 0, 0]
        np.testing.assert_allclose(point, car, atol=1e-4)
        cells.append(int(points_to_cells(point, GRID)))
    ahead, behind = (divmod(cell, GRID.columns) for cell in cells)
    assert ahead[0] == behind[0]
    assert (ahead[1], behind[1]) == (64 + 25, 64 - 26)


def test_an_image_has_the_same_cells_whatever_shares_its_batch():
    torch.manual_seed(0)
    P = torch.from_numpy(np.stack([projection(f, (128, 352)) for f in (300, 310, 280, 333)]))
    poses = torch.from_numpy(np.stack([camera_pose(h) for h in (0.1, 1.3, 2.9, 4.4)]))
    arguments = ((8, 22), (128, 352), BINS, GRID)
    together = voxel_index(P.float(), poses.float(), *arguments)
    for row in range(4):
        alone = voxel_index(P[row, None].float(), poses[row, None].float(), *arguments)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (((-51.2, 51.2), (5, -5), (-5, 3), 0.8), 'y_range_m: expected lower'),
        (((-51.2, 51.2), (-50, 50), (-5, 3), 0.8), 'y_range_m: 100 m are no multiple of 8 cells'),
        (((-51.2, 51.2), (-51.2, 51.2), (-5, 3), 0.0), 'cell_m'),
    ],
)
def test_a_grid_that_the_trunk_cannot_halve_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BevGrid(*arguments)


def test_bins_behind_the_camera_are_refused():
    with pytest.raises(ValueError, match='in front of the camera'):
        DepthBins(-1.0, 5.0, 0.5)
