"""A drone's companion: masks in, MAVLink 2 out.

:mod:`clients.drone.geometry` turns a mask into distances over a flat ground, :mod:`clients.drone.reporter` decides what
the flight controller is told and when, :mod:`clients.drone.link` speaks MAVLink, and ``python -m clients.drone`` joins
them.
"""
