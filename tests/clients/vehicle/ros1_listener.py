"""A node of ROS 1 that listens, run by the Python that ROS 1 is installed for; nothing of this project is in it.

    python3 ros1_listener.py TOPIC

It writes what comes as lines of JSON: labels on TOPIC, the class map on TOPIC_info, and diagnostics.
"""

import json
import sys
import threading

import genpy.dynamic
import rospy
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

LABEL_INFO = """\
# Used for sequencing
std_msgs/Header header

# An array of uint16 keys and string values containing the association
vision_msgs/VisionClass[] class_map

# The value between 0-1 used as confidence threshold for the inference.
float32 threshold
================================================================================
MSG: std_msgs/Header
uint32 seq
time stamp
string frame_id
================================================================================
MSG: vision_msgs/VisionClass
# The int value that identifies the class.
uint16 class_id
# The name of the class represented by the class_id
string class_name
"""
lock = threading.Lock()


def say(**fields):
    with lock:
        print(json.dumps(fields), flush=True)


def on_image(image):
    stamp = image.header.stamp
    say(
        kind="image",
        stamp=stamp.secs * 1_000_000 + stamp.nsecs // 1000,
        frame_id=image.header.frame_id,
        width=image.width,
        height=image.height,
        encoding=image.encoding,
        step=image.step,
        data=image.data.hex(),
    )


def on_info(info):
    say(
        kind="info",
        classes={c.class_id: c.class_name for c in info.class_map},
        frame_id=info.header.frame_id,
        latched=info._connection_header.get("latching"),
        parameter=rospy.get_param(f"{sys.argv[1]}_classes", None),
    )


def on_status(array):
    for status in array.status:
        values = {item.key: item.value for item in status.values}
        say(kind="status", level=status.level, name=status.name, message=status.message, values=values)


if __name__ == "__main__":
    topic = sys.argv[1]
    rospy.init_node("listener", anonymous=True)
    info_type = genpy.dynamic.generate_dynamic("vision_msgs/LabelInfo", LABEL_INFO)["vision_msgs/LabelInfo"]
    infos = rospy.Subscriber(f"{topic}_info", info_type, on_info)
    statuses = rospy.Subscriber("/diagnostics", DiagnosticArray, on_status)
    images = rospy.Subscriber(topic, Image, on_image)
    say(kind="ready")
    while not images.get_num_connections() and not rospy.is_shutdown():
        rospy.sleep(0.02)
    say(kind="connected")
    rospy.spin()
