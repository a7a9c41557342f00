"""Feature maps as colours: principal components of one network's map."""

import numpy as np
import pytest

from stl_core.visualization import feature_maps

RNG = np.random.default_rng(0)
IMAGE = np.full((20, 60, 3), 90, np.uint8)
#: Height of a panel's title.
BAR = 26


def a_map(channels=8):
    """Return a map that varies by three directions of 3, 2 and 1 times the same noise."""
    directions = np.linalg.qr(RNG.normal(size=(channels, 3)))[0]
    return np.einsum('ck,khw->chw', directions * [3, 2, 1], RNG.normal(size=(3, 10, 30))) + 5


def test_directions_are_those_of_greatest_variance():
    features = a_map()
    basis = feature_maps.colour_basis(features)
    cells = (features.reshape(8, -1).T - basis.mean) / basis.deviation
    np.testing.assert_allclose(basis.directions.T @ basis.directions, np.eye(3), atol=1e-9)
    eigenvalues = np.linalg.eigvalsh(cells.T @ cells / len(cells))[::-1]
    along = (cells @ basis.directions).var(0)
    np.testing.assert_allclose(along, eigenvalues[:3])
    # all of the variance: standardised cells of three directions lie in three directions
    assert along.sum() == pytest.approx(8)
    assert (np.abs(basis.directions).max(0) == basis.directions.max(0)).all()


def test_percentiles_are_black_and_bright():
    features = a_map()
    colours = feature_maps.colour_cells(features, feature_maps.colour_basis(features))
    assert colours.shape == (10, 30, 3)
    for channel in range(3):
        assert (colours[..., channel] == 0).mean() == pytest.approx(0.02, abs=0.005)
        assert (colours[..., channel] == 255).mean() == pytest.approx(0.02, abs=0.005)


def test_equal_features_have_equal_colours_and_constant_maps_work():
    features = a_map()
    picture = feature_maps.feature_picture(
        IMAGE, {'student': features, 'teacher': features.copy()}, 'teacher', 120
    )
    height = BAR + 40
    assert picture.shape == (3 * height, 120, 3)
    np.testing.assert_array_equal(picture[height + BAR : 2 * height], picture[2 * height + BAR :])
    flat = {'teacher': np.ones((2, 4, 6))}
    assert np.isfinite(feature_maps.feature_picture(IMAGE, flat, 'teacher', 60)).all()
    with pytest.raises(ValueError, match=r'student: map of \(2, 4, 6\); expected \(8, 10, 30\)'):
        feature_maps.feature_picture(
            IMAGE, {'student': flat['teacher'], 'teacher': features}, 'teacher'
        )
