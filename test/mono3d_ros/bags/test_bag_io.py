import numpy as np
import pytest

from mono3d_ros.bags.bag_io import BagError, BagReader, BagWriter
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.messages import markers
from mono3d_ros.messages.primitives import message_stamp_ns
from stl_core.types import Objects3D

HEADER = 'std_msgs/msg/Header'
TIME = 'builtin_interfaces/msg/Time'


def info(new, stamp):
    header = new(HEADER, stamp=new(TIME, sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id='c')
    return new('sensor_msgs/msg/CameraInfo', header=header, width=4, height=3, k=np.eye(3))


def write_bag(path, stamps=(5, 1, 3)):
    store = make_typestore()
    with BagWriter(path, store) as bag:
        bag.add_topic('/camera/camera_info', 'sensor_msgs/msg/CameraInfo')
        bag.add_topic('/other', 'std_msgs/msg/String')
        for stamp in stamps:
            bag.write('/camera/camera_info', stamp, info(make_message_factory(store), stamp))
    return path


def test_written_messages_are_read_in_time_order(tmp_path):
    with BagReader(write_bag(tmp_path / 'a')) as bag:
        assert bag.topics == {
            '/camera/camera_info': 'sensor_msgs/msg/CameraInfo',
            '/other': 'std_msgs/msg/String',
        }
        read = list(bag.messages())
        assert [message.recorded_ns for message in read] == [1, 3, 5]
        assert [message_stamp_ns(bag.decode(message)) for message in read] == [1, 3, 5]
        np.testing.assert_array_equal(bag.decode(read[0]).k, np.eye(3).ravel())


def test_messages_are_copied_between_bags_byte_for_byte(tmp_path):
    with BagReader(write_bag(tmp_path / 'a')) as one, BagWriter(tmp_path / 'b') as two:
        two.add_topic('/copy', 'sensor_msgs/msg/CameraInfo')
        for message in one.messages(['/camera/camera_info']):
            two.write_cdr('/copy', message.recorded_ns, message.cdr)
    with BagReader(tmp_path / 'a') as one, BagReader(tmp_path / 'b') as two:
        assert [m.cdr for m in one.messages()] == [m.cdr for m in two.messages()]


def test_an_error_leaves_no_files(tmp_path):
    def fail():
        with BagWriter(tmp_path / 'a') as bag:
            bag.add_topic('/other', 'std_msgs/msg/String')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('none', None, 'none: no such bag; expected a rosbag2 folder'),
        ('a.txt', b'x', 'a.txt: not a ROS 2 bag'),
        ('a.mcap', b'x' * 50, 'a.mcap: not a readable bag'),
        ('a.db3', b'x' * 50, 'a.db3: not a readable bag'),
    ],
)
def test_a_path_without_a_readable_bag_is_an_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=message):
        BagReader(tmp_path / name)


def test_wrong_folders_unknown_topics_and_truncated_bags_are_errors(tmp_path):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(BagError, match=r'no metadata\.yaml'):
        BagReader(tmp_path / 'folder')
    bag = write_bag(tmp_path / 'a')
    with BagReader(bag) as reader, pytest.raises(BagError, match='no topic /x; the bag has /cam'):
        list(reader.messages(['/x']))
    with pytest.raises(BagError, match='exists already'):
        BagWriter(bag)
    file = next(bag.glob('*.mcap'))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(BagError, match=r'a'), BagReader(bag) as reader:
        list(reader.messages())


def test_absent_fields_have_ros_defaults():
    new = make_message_factory(make_typestore())
    pose = new('geometry_msgs/msg/Pose')
    assert (pose.orientation.w, pose.orientation.x) == (1.0, 0.0)
    with pytest.raises(LookupError, match='no such message type'):
        new('a/msg/B')
    with pytest.raises(TypeError, match='has no field x'):
        new(HEADER, x=1)


def test_defaults_equal_those_of_rclpy():
    """Messages of default values are encoded as rclpy encodes empty messages."""
    pytest.importorskip('rclpy')
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2
    from visualization_msgs.msg import Marker, MarkerArray

    store = make_typestore()
    for kind in (CameraInfo, Image, PointCloud2, Marker, MarkerArray, DiagnosticArray):
        name = f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'
        ours = store.deserialize_cdr(
            store.serialize_cdr(make_message_factory(store)(name), name), name
        )
        theirs = store.deserialize_cdr(serialize_message(kind()), name)
        assert str(ours) == str(theirs)


def test_stamp_of_a_marker_array_is_that_of_its_first_marker():
    result = FrameResult('front', 123, 'optical', Objects3D.empty(), ('Car',), (), {})
    assert (
        message_stamp_ns(
            markers.to_marker_array(result, (), make_message_factory(make_typestore()))
        )
        == 123
    )
