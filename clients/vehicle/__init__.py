"""A vehicle's bridges: labels into a ROS 2 graph by DDS, or onto Zenoh, and events out of either.

:mod:`clients.vehicle.ros` and :mod:`clients.vehicle.zenoh_bridge` publish; :mod:`clients.vehicle.ros_types` has the
types, and ``python -m clients.vehicle`` joins them with a source and the service. Stamps are the sensor's own times.
"""
