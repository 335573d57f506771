"""The segmentation service: event-camera data in over HTTP or WebSocket, masks and spike metrics out.

Importing this package, or :mod:`service.wire`, needs NumPy and Pillow but neither torch nor a web framework, so that
clients can share the codecs.
"""

__version__ = "0.1.0"
