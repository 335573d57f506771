"""A camera's node of ROS 1, run by the Python that ROS 1 is installed for; nothing of this project is in it.

    python3 ros1_camera.py TOPIC TYPE FRAME_ID WIDTH HEIGHT

Each line of its input is a message: JSON with ``stamp`` in microseconds and ``events``, rows of t, x, y, p; or with
``packet``, an encoding, and ``data`` in hexadecimal. It says ``ready`` once somebody listens.
"""

import json
import sys

import genpy.dynamic
import rospy

HEADER = f"{'=' * 80}\nMSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"
DEFINITIONS = {
    "dvs_msgs/EventArray": f"""\
# This message contains an array of events
# (0, 0) is at top-left corner of image
#

Header header

uint32 height         # image height, that is, number of rows
uint32 width          # image width, that is, number of columns

# an array of events
Event[] events
{HEADER}{"=" * 80}
MSG: dvs_msgs/Event
# A DVS event
uint16 x
uint16 y
time ts
bool polarity
""",
    "event_camera_msgs/EventPacket": f"""\
# This message contains a packet of camera events

Header header     # standard ROS header
uint32 height     # image height
uint32 width      # image width

uint64 seq        # sequence number to detect lost messages
uint64 time_base  # event ros time = time_base + decoded event_time
string encoding   # the encoding scheme to use
bool is_bigendian # true if machine stores in big endian format

uint8[] events
{HEADER}""",
    "other_msgs/Events": f"Header header\nuint8[] events\n{HEADER}",
    # As before the fields of the size came first.
    "dvs_msgs/EventArray (old)": f"Header header\nEvent[] events\nuint32 height\nuint32 width\n{HEADER}{'=' * 80}\n"
    "MSG: dvs_msgs/Event\nuint16 x\nuint16 y\ntime ts\nbool polarity\n",
}


def time_of(us):
    return rospy.Time(us // 1_000_000, us % 1_000_000 * 1000)


def main(topic, kind, frame_id, width, height):
    name = kind.split()[0]
    types = genpy.dynamic.generate_dynamic(name, DEFINITIONS[kind])
    rospy.init_node("camera", anonymous=True)
    publisher = rospy.Publisher(topic, types[name], queue_size=100)
    while not publisher.get_num_connections() and not rospy.is_shutdown():
        rospy.sleep(0.02)
    print('{"kind": "ready"}', flush=True)
    for seq, line in enumerate(sys.stdin):
        given = json.loads(line)
        message = types[name]()
        message.header.stamp = time_of(given["stamp"])
        message.header.frame_id = frame_id
        if kind != "other_msgs/Events":
            message.width, message.height = int(width), int(height)
        if "packet" in given:
            message.seq, message.time_base = seq, given["time_base"]
            message.encoding, message.events = given["packet"], bytes.fromhex(given["data"])
        elif kind.startswith("dvs_msgs"):
            event = types["dvs_msgs/Event"]
            message.events = [event(x, y, time_of(t), bool(p)) for t, x, y, p in given["events"]]
        publisher.publish(message)


if __name__ == "__main__":
    main(*sys.argv[1:])
