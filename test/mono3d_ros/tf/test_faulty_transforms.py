"""Transforms with faults, in a bag and in the node: as tf2's BufferCore treats them."""

import numpy as np
import pytest
from bag_messages import NEW, tf_message

from mono3d_ros.tf.buffer import TransformBuffer, TransformUnavailableError
from mono3d_ros.tf.history import TransformHistory

S = 1_000_000_000


def with_fields(message, **changes):
    """Change fields of the first transform: translation, rotation, parent, child."""
    each = message.transforms[0]
    for name, value in changes.items():
        if name == 'parent':
            each.header.frame_id = value
        elif name == 'child':
            each.child_frame_id = value
        else:
            kind = 'Vector3' if name == 'translation' else 'Quaternion'
            xyzw = dict(zip('xyzw', value, strict=False))
            setattr(each.transform, name, NEW(f'geometry_msgs/msg/{kind}', **xyzw))
    return message


def static_lookup(messages, target='base', source='lidar'):
    """Return the x of a lookup in the history of a bag and in the buffer, and their notes."""
    notes = []
    buffer = TransformBuffer(notes.append)
    for each in messages:
        buffer.put_static(each)
    history = TransformHistory(messages, [])
    in_bag = history.lookup_between(target, 0, source, 0)
    try:
        in_node = buffer.lookup(target, source, 0)
    except TransformUnavailableError as err:
        assert in_bag is None
        return None, str(err), history.explain_missing(target, 0, source, 0)
    np.testing.assert_array_equal(in_bag, in_node)
    assert list(history.notes.elements()) == notes
    return in_node[0, 3], notes, ''


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'translation': (np.nan, 0, 0)}, 'numbers that are not finite'),
        ({'translation': (np.inf, 0, 0)}, 'numbers that are not finite'),
        ({'rotation': (0, 0, 0, np.nan)}, 'numbers that are not finite'),
        ({'rotation': (0, 0, 0, np.inf)}, 'numbers that are not finite'),
        ({'rotation': (0, 0, 0, 0)}, 'a quaternion of a length other than 1'),
        ({'rotation': (0, 0, 0, 1e-300)}, 'a quaternion of a length other than 1'),
        ({'rotation': (0, 0, 0.2, 1)}, 'a quaternion of a length other than 1'),
        ({'parent': 'lidar'}, 'a frame is its parent'),
        ({'parent': '/lidar'}, 'a frame is its parent'),
        ({'parent': ''}, 'a frame has no name'),
        ({'child': '/'}, 'a frame has no name'),
    ],
)
def test_a_faulty_transform_does_not_replace_a_good_one(changes, reason):
    good, bad = tf_message(0, ('base', 'lidar', 2.0)), tf_message(0, ('base', 'lidar', 5.0))
    x_m, notes, _ = static_lookup([good, with_fields(bad, **changes)])
    assert x_m == 2.0
    (note,) = notes
    assert note.startswith('ignored, as tf2 does: transform from ')
    assert note.endswith(reason)


def test_a_quaternion_within_the_tolerance_of_tf2_is_used():
    message = with_fields(tf_message(0, ('base', 'lidar', 5.0)), rotation=(0, 0, 0, 1.004))
    assert static_lookup([message])[0] == 5.0


def test_leading_slashes_of_transforms_are_stripped_and_those_of_headers_are_not():
    message = tf_message(0, ('/base', '/lidar', 2.0))
    assert static_lookup([message])[0] == 2.0
    x_m, in_node, in_bag = static_lookup([message], source='/lidar')
    assert x_m is None
    hint = "names of tf frames begin without a slash: 'lidar', not '/lidar'"
    assert in_bag == hint
    assert in_node == f'no transform from /lidar to base: {hint}'


MOVING = [tf_message(at_s * S, ('odom', 'base', float(at_s))) for at_s in (100, 101, 102)]


def test_moving_transforms_are_not_extrapolated():
    """tf2: ExtrapolationException before the first and after the last one."""
    buffer, history = TransformBuffer(), TransformHistory([], MOVING)
    for each in MOVING:
        buffer.put_moving(each)
    for at_ns, x_m in ((100 * S, 100), (100 * S + S // 4, 100.25), (102 * S, 102)):
        assert history.lookup_between('odom', at_ns, 'base', at_ns)[0, 3] == pytest.approx(x_m)
        assert buffer.lookup('odom', 'base', at_ns)[0, 3] == pytest.approx(x_m)
    for at_ns in (100 * S - 1, 0, 102 * S + 1, 202 * S):
        query = ('odom', at_ns, 'base', at_ns)
        assert history.lookup_between(*query) is None
        reason = "tf has the moving frame 'base' only from 100.000 to 102.000 s"
        assert history.explain_missing(*query) == reason
        with pytest.raises(TransformUnavailableError, match='transform of base is'):
            buffer.lookup('odom', 'base', at_ns)


def test_a_single_moving_transform_holds_at_its_stamp_only():
    history = TransformHistory([], MOVING[:1])
    assert history.lookup_between('odom', 100 * S, 'base', 100 * S)[0, 3] == 100
    assert history.lookup_between('odom', 100 * S + 1, 'base', 100 * S + 1) is None


def test_a_gap_above_both_frames_does_not_matter_at_one_time():
    static = [tf_message(0, ('base', 'lidar', 2.0), ('base', 'camera', 3.0))]
    history = TransformHistory(static, MOVING)
    assert history.lookup_between('camera', 0, 'lidar', 0)[0, 3] == -1
    # but it does for the motion between two times
    assert history.lookup_between('camera', 0, 'lidar', 1) is None


def test_a_frame_that_is_static_and_moving_is_what_came_last():
    notes = []
    buffer = TransformBuffer(notes.append)
    static = tf_message(0, ('odom', 'base', 7.0))
    buffer.put_static(static)
    for each in MOVING:
        buffer.put_moving(each)
    assert buffer.lookup('odom', 'base', 101 * S)[0, 3] == 101
    with pytest.raises(TransformUnavailableError):
        buffer.lookup('odom', 'base', 0)
    buffer.put_static(static)
    assert buffer.lookup('odom', 'base', 0)[0, 3] == 7
    text = "frame 'base' is published as static and as moving: the latest counts"
    assert notes == [text, text]
    history = TransformHistory([static], MOVING)
    assert list(history.notes) == ["frame 'base' is static and moving: moving transforms used"]
    assert history.lookup_between('odom', 0, 'base', 0) is None
