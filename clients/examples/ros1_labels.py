"""What a node of ROS 1 does with the labels: ``python3 ros1_labels.py [TOPIC]``, by the Python that has rospy.

    python -m clients.vehicle ros1:///dvs/events --ros1 /spikeseg/labels

publishes them. Nothing of this project is needed here, nor a message that ROS 1 does not have.
"""

import sys

import rospy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image


class Listener:
    """Prints how much of each picture is human, and when it must not be relied on."""

    def __init__(self, topic: str) -> None:
        self.human = 0
        self.topic = topic
        self.message = ""
        self.subscribers = (
            rospy.Subscriber(topic, Image, self.on_labels),
            rospy.Subscriber("/diagnostics", DiagnosticArray, self.on_diagnostics),
        )

    def on_labels(self, image: Image) -> None:
        """A class id for each pixel, row by row."""
        if not self.human:
            classes = {item["name"]: item["id"] for item in rospy.get_param(f"{self.topic}_classes")}
            self.human = classes["human"]
        share = image.data.count(self.human) / len(image.data)
        print(f"{image.header.stamp.to_sec():.6f} {image.header.frame_id}: {share:.1%} human", flush=True)

    def on_diagnostics(self, array: DiagnosticArray) -> None:
        """Once a second, and at every change."""
        for status in array.status:
            if status.name.endswith(": segmentation") and status.message != self.message:
                self.message = status.message
                trust = "ok" if status.level == DiagnosticStatus.OK else "do not rely on labels"
                print(f"-- {trust}: {status.message}", flush=True)


if __name__ == "__main__":
    rospy.init_node("label_listener")
    listener = Listener(rospy.myargv(sys.argv)[1] if len(sys.argv) > 1 else "/spikeseg/labels")
    rospy.spin()
