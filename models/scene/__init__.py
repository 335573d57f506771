"""A procedural street scene: the project's own pictures, with exact labels.

No picture, model or texture of anyone else's is in it; everything is drawn from a seed.
"""

from models.scene.canvas import Camera, Pose
from models.scene.street import SceneFrame, Street, StreetConfig

__all__ = ["Camera", "Pose", "SceneFrame", "Street", "StreetConfig"]
