"""
Data types: camera, objects in the camera frame, objects in an image, labels of an image.

Sets of objects are frozen dataclasses of numpy arrays with one row per object; N is the number of
objects. The camera frame is x right, y down, z forward, in metres. Pixel coordinates start at the
centre of the top-left pixel, u to the right and v down. A box is x0 y0 x1 y1. Angles are in
radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar('T', bound='StructOfArrays')


@dataclass(frozen=True)
class Camera:
    """
    A rectified camera and its image size.

    :param P: (3, 4) projection from the camera frame to pixels of the image.
    :param width_px: image width.
    :param height_px: image height.
    """

    P: Array
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        """Raise ValueError unless P is a finite (3, 4) matrix and the size is positive."""
        P = np.asarray(self.P, np.float64)
        if P.shape != (3, 4) or not np.isfinite(P).all():
            raise ValueError(f'P must be a finite (3, 4) matrix, got shape {P.shape}')
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f'image size must be positive, got {self.width_px}x{self.height_px}')
        object.__setattr__(self, 'P', P)


class StructOfArrays:
    """
    Struct of arrays with one row per object.

    FIELD_SHAPES holds the row shape of each field, FIELD_DTYPES its type if not float64, and
    UNKNOWN, for each field that may be left out, the value that says that a row has none.
    """

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {}
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {}
    UNKNOWN: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        """Convert the fields to arrays; raise ValueError for a wrong shape or length."""
        count = None
        for name, width in self.FIELD_SHAPES.items():
            value = getattr(self, name)
            if value is None and name in self.UNKNOWN:
                value = np.full((count or 0, *width), self.UNKNOWN[name])
            value = np.asarray(value, self.FIELD_DTYPES.get(name, np.float64))
            if value.ndim != 1 + len(width) or value.shape[1:] != width:
                raise ValueError(f'{name} must have shape {("N", *width)}, got {value.shape}')
            count = len(value) if count is None else count
            if len(value) != count:
                raise ValueError(f'{name} has {len(value)} rows where others have {count}')
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(getattr(self, next(iter(self.FIELD_SHAPES))))

    def __getitem__(self: T, rows: Any) -> T:
        """Return the objects at an index, index array, slice or boolean mask."""
        if isinstance(rows, (int, np.integer)):
            rows = [rows]
        selected = {f.name: getattr(self, f.name)[rows] for f in fields(self)}  # type: ignore
        return type(self)(**selected)

    @classmethod
    def concatenate(cls: type[T], parts: Sequence[T]) -> T:
        """Return the objects of all parts in order; there may be none."""
        return cls(
            **{
                name: np.concatenate([getattr(each, name) for each in (cls.empty(), *parts)])
                for name in cls.FIELD_SHAPES
            }
        )

    @classmethod
    def empty(cls: type[T]) -> T:
        """Return an instance with zero objects."""
        return cls(
            **{
                name: np.zeros((0, *width), cls.FIELD_DTYPES.get(name, np.float64))
                for name, width in cls.FIELD_SHAPES.items()
            }
        )


@dataclass(frozen=True)
class Objects3D(StructOfArrays):
    """
    N objects in the camera frame.

    :param class_id: (N,) index into the class list in use, -1 for a class not in it.
    :param score: (N,) confidence, 0 to 1; 1 for labels.
    :param center_m: (N, 3) geometric centre of the box.
    :param size_hwl_m: (N, 3) height, width, length.
    :param rotation_y: (N,) yaw about camera y, 0 = length along +x, in [-pi, pi).
    :param box_px: (N, 4) 2D box in the image that shows the object.
    :param depth_sigma_m: (N,) standard deviation of the depth error; 0 for labels.
    :param velocity_mps: (N, 3) velocity over ground, camera axes; nan where unknown.
    :param attribute_id: (N,) index into the attributes in use, such as 'vehicle.parked'; -1 where
        unknown.
    """

    class_id: Array
    score: Array
    center_m: Array
    size_hwl_m: Array
    rotation_y: Array
    box_px: Array
    depth_sigma_m: Array
    velocity_mps: Array = None  # type: ignore[assignment]  # becomes an array of UNKNOWN
    attribute_id: Array = None  # type: ignore[assignment]

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'class_id': (),
        'score': (),
        'center_m': (3,),
        'size_hwl_m': (3,),
        'rotation_y': (),
        'box_px': (4,),
        'depth_sigma_m': (),
        'velocity_mps': (3,),
        'attribute_id': (),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {'class_id': np.int64, 'attribute_id': np.int64}
    UNKNOWN: ClassVar[dict[str, Any]] = {'velocity_mps': np.nan, 'attribute_id': -1}


@dataclass(frozen=True)
class ImageObjects(StructOfArrays):
    """
    N objects as they appear in one image: the output of a monocular network.

    :param class_id: (N,) index into the class list in use.
    :param score: (N,) confidence, 0 to 1.
    :param center_px: (N, 2) projection of the 3D centre.
    :param depth_m: (N,) z of the 3D centre in the camera frame.
    :param size_hwl_m: (N, 3) height, width, length.
    :param alpha: (N,) observation angle, rotation_y less the bearing of the centre, [-pi, pi).
    :param box_px: (N, 4) 2D box.
    :param depth_log_sigma: (N,) log of the standard deviation of the depth error, metres.
    :param velocity_mps: (N, 3) velocity over ground, camera axes; nan where unknown.
    :param attribute_id: (N,) index into the attributes in use; -1 where unknown.
    """

    class_id: Array
    score: Array
    center_px: Array
    depth_m: Array
    size_hwl_m: Array
    alpha: Array
    box_px: Array
    depth_log_sigma: Array
    velocity_mps: Array = None  # type: ignore[assignment]  # becomes an array of UNKNOWN
    attribute_id: Array = None  # type: ignore[assignment]

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'class_id': (),
        'score': (),
        'center_px': (2,),
        'depth_m': (),
        'size_hwl_m': (3,),
        'alpha': (),
        'box_px': (4,),
        'depth_log_sigma': (),
        'velocity_mps': (3,),
        'attribute_id': (),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {'class_id': np.int64, 'attribute_id': np.int64}
    UNKNOWN: ClassVar[dict[str, Any]] = {'velocity_mps': np.nan, 'attribute_id': -1}


@dataclass(frozen=True)
class Labels(StructOfArrays):
    """
    Annotated or detected objects of one image, of every class, DontCare included.

    :param name: (N,) class name, such as 'Car', 'Van' or 'DontCare'.
    :param truncated: (N,) fraction outside the image, 0 to 1; -1 where unknown.
    :param occluded: (N,) 0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 where absent.
    :param alpha: (N,) observation angle as annotated; -10 where absent.
    :param score: (N,) confidence of a detection; 1 for annotations.
    :param center_m: (N, 3) geometric centre, camera frame.
    :param size_hwl_m: (N, 3) height, width, length.
    :param rotation_y: (N,) yaw about camera y.
    :param box_px: (N, 4) 2D box.
    :param velocity_mps: (N, 3) velocity over ground, camera axes; nan where unknown. It has no
        component along the vehicle's vertical: ego poses lack height, so that a slope would appear
        as vertical speed.
    :param attribute: (N,) attribute, such as 'vehicle.parked'; '' where unknown.
    :param num_points: (N,) points of LiDAR and radar inside the box; -1 where not counted.
    """

    name: Array
    truncated: Array
    occluded: Array
    alpha: Array
    score: Array
    center_m: Array
    size_hwl_m: Array
    rotation_y: Array
    box_px: Array
    velocity_mps: Array = None  # type: ignore[assignment]  # becomes an array of UNKNOWN
    attribute: Array = None  # type: ignore[assignment]
    num_points: Array = None  # type: ignore[assignment]

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'name': (),
        'truncated': (),
        'occluded': (),
        'alpha': (),
        'score': (),
        'center_m': (3,),
        'size_hwl_m': (3,),
        'rotation_y': (),
        'box_px': (4,),
        'velocity_mps': (3,),
        'attribute': (),
        'num_points': (),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {
        'name': np.str_,
        'occluded': np.int64,
        'attribute': np.str_,
        'num_points': np.int64,
    }
    UNKNOWN: ClassVar[dict[str, Any]] = {'velocity_mps': np.nan, 'attribute': '', 'num_points': -1}

    def to_objects(self, classes: tuple[str, ...], attributes: tuple[str, ...] = ()) -> Objects3D:
        """
        Return the objects of the listed classes.

        :param classes: class_id is the index into this list.
        :param attributes: attribute_id is the index into this list; -1 for an attribute that is
            not in it.
        """
        class_id, attribute_id = (
            index_names(self.name, classes),
            index_names(self.attribute, attributes),
        )
        keep = class_id >= 0
        return Objects3D(
            class_id=class_id[keep],
            score=self.score[keep],
            center_m=self.center_m[keep],
            size_hwl_m=self.size_hwl_m[keep],
            rotation_y=self.rotation_y[keep],
            box_px=self.box_px[keep],
            depth_sigma_m=np.zeros(int(keep.sum())),
            velocity_mps=self.velocity_mps[keep],
            attribute_id=attribute_id[keep],
        )


def index_names(names: Array, known: tuple[str, ...]) -> Array:
    """Return (N,) the index of each name in a list, -1 for a name that is not in it."""
    index = {name: i for i, name in enumerate(known)}
    return np.array([index.get(str(name), -1) for name in names], np.int64)
