"""A vehicle's bridges: labels into a graph of ROS 1 or, by DDS, ROS 2, or onto Zenoh, and events out of each.

:mod:`clients.vehicle.ros`, :mod:`clients.vehicle.ros1` and :mod:`clients.vehicle.zenoh_bridge` publish, and
:mod:`clients.vehicle.ros_types` and :mod:`clients.vehicle.ros1_messages` have the types. :mod:`clients.vehicle.watch`
decides which masks are fresh, and :mod:`clients.vehicle.bridge` joins them with a source and the service for
``python -m clients.vehicle``. Stamps are the sensor's own times.
"""
