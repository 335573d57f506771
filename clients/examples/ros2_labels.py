"""Labels of a vehicle's bridge in a ROS 2 graph: ``python -m clients.examples.ros2_labels [TOPIC [MASKS [DOMAIN]]]``.

Prints a line for each image, and ends after so many (0: never). With ROS 2 installed, ``ros2 topic echo TOPIC`` and
RViz read the same topics; this program needs Cyclone DDS alone. The bridge runs beside it::

    python -m clients.vehicle drive.aedat4 --ros /spikeseg/labels
"""

from __future__ import annotations

import sys
import time

from cyclonedds.domain import DomainParticipant
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader, Subscriber
from cyclonedds.topic import Topic

from clients.vehicle.ros_types import Image, LabelInfo


def main(topic: str = "/spikeseg/labels", masks: str = "0", domain: str = "0") -> None:
    """Print what is seen."""
    participant = DomainParticipant(int(domain))
    subscriber = Subscriber(participant)
    reliable = Policy.Reliability.Reliable(max_blocking_time=100_000_000)
    images = DataReader(subscriber, Topic(participant, f"rt{topic}", Image), qos=Qos(reliable))
    latched = Qos(reliable, Policy.Durability.TransientLocal)
    infos = DataReader(subscriber, Topic(participant, f"rt{topic}_info", LabelInfo), qos=latched)
    names: dict[int, str] = {}
    left = int(masks) or -1
    while left:
        for info in infos.take(1):
            names = {each.class_id: each.class_name for each in info.class_map}
        # Without names labels mean nothing; they are latched, and come to those who are late too.
        for image in images.take(1) if names else ():
            labels, stamp = bytes(image.data), image.header.stamp
            shares = {name: labels.count(number) / len(labels) for number, name in names.items()}
            seen = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
            print(f"{stamp.sec}.{stamp.nanosec // 1_000_000:03d} s  {image.width}x{image.height}  {seen}")
            left -= 1
        time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
