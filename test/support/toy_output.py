"""An output message of the node: the number of objects, as std_msgs/msg/Float64."""

from mono3d_ros.node.message_factory import make_message
from mono3d_ros.node.publishers import Output

TYPE = 'std_msgs/msg/Float64'
OUTPUT = Output(
    TYPE, lambda result, frame, target: make_message(TYPE, data=float(len(result.objects)))
)
