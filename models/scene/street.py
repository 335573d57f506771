"""A drive down a street that is built from a seed, frame by frame, with the class of every pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from models.scene import textures
from models.scene.actors import HATCHBACK, SALOON, VAN, Actor, Car, Cyclist, Person, Plate, Post
from models.scene.canvas import Camera, Canvas, FloatArray, GreyImage, Pose, Sprite, StripTexture
from models.scene.textures import Rng, RoadPainter, StreetPlan

FLAT, CONSTRUCTION, NATURE = 0, 1, 3
HAZE_GREY = 205
_ROAD_START = -4.0


@dataclass(frozen=True, slots=True)
class StreetConfig:
    """What is built, and how it is driven through.

    Attributes
    ----------
    seed : int
        The same seed gives the same street and the same drive.
    duration_s : float
        Time that the street is long enough for.
    speed : float
        Mean speed of the camera, in metres per second.
    camera : Camera
    camera_height : float
        Metres above the road.
    visible_m : float
        Distance at which the street ends in a row of houses.
    """

    seed: int = 7
    duration_s: float = 8.0
    speed: float = 6.0
    camera: Camera = field(default_factory=Camera)
    camera_height: float = 1.4
    visible_m: float = 150.0


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """One picture of the drive.

    Attributes
    ----------
    grey : float32 array, (height, width)
        Brightness in [0, 1], as a video frame holds it.
    labels : uint8 array, (height, width)
        Class ids of :data:`models.classes.DDD17_CLASSES`; 255 where nothing is known.
    """

    grey: FloatArray
    labels: GreyImage


@dataclass(frozen=True, slots=True)
class _Wall:
    """An upright surface along the street, and the face it turns to the camera at its near end."""

    texture: StripTexture
    x: float
    z0: float
    length: float
    class_id: int
    side: Sprite | None = None
    side_height: float = 0.0

    def z(self, t: float) -> float:  # noqa: ARG002
        return self.z0 + self.length / 2

    def paint(self, canvas: Canvas, t: float) -> None:  # noqa: ARG002
        canvas.wall(self.texture, self.x, self.z0, self.length, self.class_id, HAZE_GREY)
        if self.side is not None:
            outwards = 8.0 if self.x > 0 else -8.0
            x = (min(self.x, self.x + outwards), max(self.x, self.x + outwards))
            canvas.sprite(self.side, x, (0.0, self.side_height), self.z0, self.class_id)


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree of one or more flat pictures, one a little behind the other."""

    sprites: tuple[Sprite, ...]
    x: float
    place: float
    width: float
    height: float

    def z(self, t: float) -> float:  # noqa: ARG002
        return self.place

    def paint(self, canvas: Canvas, t: float) -> None:  # noqa: ARG002
        half = self.width / 2
        near = self.place - canvas.pose.z < 60
        for k, sprite in enumerate(self.sprites if near else self.sprites[-1:]):
            back = 0.9 * (len(self.sprites) - 1 - k) if near else 0.0
            canvas.sprite(sprite, (self.x - half, self.x + half), (0.0, self.height), self.place + back, NATURE)


@dataclass(frozen=True, slots=True)
class _Backdrop:
    """A house across the far end of the street, which stays as far ahead of the camera as it was."""

    sprite: Sprite
    x: float
    width: float
    height: float
    distance: float

    def paint(self, canvas: Canvas) -> None:
        z = canvas.pose.z + self.distance
        canvas.sprite(self.sprite, (self.x, self.x + self.width), (0.0, self.height), z, CONSTRUCTION)


class Street:
    """A street, and the drive down it.

    Parameters
    ----------
    config : StreetConfig

    Examples
    --------
    >>> frame = Street(StreetConfig(seed=1, duration_s=1.0)).frame(0.5)
    >>> frame.grey.shape, frame.labels.shape
    ((260, 346), (260, 346))
    """

    def __init__(self, config: StreetConfig | None = None) -> None:
        self.config = config or StreetConfig()
        self.plan = StreetPlan()
        # One stream for each part, so that a change to one leaves the others as they are.
        names = ("road", "fronts", "parking", "trees", "people", "furniture", "traffic", "drive", "sky")
        streams = np.random.SeedSequence(self.config.seed).spawn(len(names))
        rng = {name: np.random.default_rng(stream) for name, stream in zip(names, streams, strict=True)}
        self._end = self.config.speed * 1.2 * self.config.duration_s + self.config.visible_m
        self._sky = textures.sky(rng["sky"], (288, 374))
        self._phases = rng["drive"].uniform(0, 2 * math.pi, 6).tolist()
        parked = self._parked_cars(rng["parking"])
        self._road = self._paint_road(rng["road"], parked)
        self._walls = self._fronts(rng["fronts"])
        self._backdrops = self._far_end(rng["fronts"])
        self._actors: list[Actor] = [
            *parked,
            *self._trees(rng["trees"]),
            *self._furniture(rng["furniture"]),
            *self._people(rng["people"]),
            *self._traffic(rng["traffic"]),
        ]

    def pose(self, t: float) -> Pose:
        """Where the camera is at a time in seconds: steady driving, with the sway and the bumps of a car."""
        a, b, c, d, e, f = self._phases
        slow, bump, jolt = 2 * math.pi * 0.22 * t, 2 * math.pi * 1.3 * t, 2 * math.pi * 3.4 * t
        return Pose(
            x=0.18 * math.sin(slow + a),
            y=self.config.camera_height + 0.012 * math.sin(bump + b),
            z=self.config.speed * (t + 0.12 * (math.cos(e) - math.cos(2 * math.pi * 0.15 * t + e))),
            yaw=math.radians(0.9 * math.sin(slow * 1.3 + c) + 0.03 * math.sin(jolt + a)),
            pitch=math.radians(0.16 * math.sin(bump + d) + 0.03 * math.sin(jolt + f)),
            roll=math.radians(0.25 * math.sin(bump * 0.6 + f)),
        )

    def frame(self, t: float) -> SceneFrame:
        """The picture at a time in seconds, with its labels."""
        pose = self.pose(t)
        canvas = Canvas(self.config.camera, pose, self._sky, CONSTRUCTION)
        canvas.ground(self._road, self._road_x, _ROAD_START, FLAT, self.config.visible_m + 40)
        for backdrop in self._backdrops:
            backdrop.paint(canvas)
        # House fronts stand farther out than anything before them, so all of them come first.
        for wall in sorted(self._walls, key=lambda wall: -wall.z(t)):
            wall.paint(canvas, t)
        for actor in sorted(self._actors, key=lambda actor: -actor.z(t)):
            actor.paint(canvas, t)
        return SceneFrame(*canvas.finish())

    def _paint_road(self, rng: Rng, parked: list[Car]) -> StripTexture:
        self._road_x = -12.0
        painter = RoadPainter(rng, self.plan, self._end + 45 - _ROAD_START, self._road_x, 16.0)
        for car in parked:
            half = car.shape.length / 2
            z = car.z0 - _ROAD_START
            painter.contact_shadow(z - half, z + half, car.x - car.shape.half_width, car.x + car.shape.half_width)
        return StripTexture(painter.texture(), painter.along, painter.across)

    def _fronts(self, rng: Rng) -> list[_Wall]:
        """House fronts on both sides, a park behind railings on the right, and the houses that end the street."""
        plan, walls = self.plan, []
        park = (30.0, 62.0)
        for front, sign in ((plan.front_left, -1), (plan.front_right, 1)):
            z, last, gap = -6.0, (front, 0.0), True
            while z < self._end:
                length = rng.uniform(7, 15)
                height = rng.uniform(7.0, 12.5)
                x = front + sign * float(rng.choice([0, 0, 0, 0.5, 1.2]))
                shop = bool(rng.random() < 0.5)
                look = textures.house_front(rng, length, height, shop=shop)
                side = textures.house_side(rng, 8.0, height)
                seen = gap or height > last[1] or abs(x) < abs(last[0])
                last, gap = (x, height), False
                if not (sign > 0 and z + length > park[0] and z < park[1]):
                    texture = StripTexture(textures.wall_channels(look), look.res, look.res)
                    walls.append(_Wall(texture, x, z, length, CONSTRUCTION, side if seen else None, height))
                else:
                    gap = True
                z += length
                if rng.random() < 0.12:
                    z += rng.uniform(3, 7)
                    gap = True
        for x, height, class_id in ((plan.front_right + 1.0, 2.1, NATURE), (plan.front_right + 0.2, 1.3, CONSTRUCTION)):
            length = park[1] - park[0] + 4
            green = class_id == NATURE
            look = textures.hedge(rng, length, height) if green else textures.railing(length, height)
            texture = StripTexture(textures.wall_channels(look), look.res, look.res)
            walls.append(_Wall(texture, x, park[0] - 2, length, class_id))
        return walls

    def _far_end(self, rng: Rng) -> list[_Backdrop]:
        """Houses across the end of the street, as far away from the camera as it moves on."""
        backdrops, x = [], -60.0
        while x < 60.0:
            width, height = rng.uniform(9, 18), rng.uniform(6, 12)
            look = textures.house_front(rng, width, height, shop=False)
            faded = look.grey.astype(np.float32) * 0.72 + HAZE_GREY * 0.28
            grey, alpha = (np.ascontiguousarray(a[::-1]) for a in (textures.to_grey(faded), look.alpha))
            backdrops.append(
                _Backdrop(Sprite.build(grey, alpha), x, width, len(alpha) * look.res, self.config.visible_m)
            )
            x += width
        return backdrops

    def _parked_cars(self, rng: Rng) -> list[Car]:
        plan, cars = self.plan, []
        lanes = ((plan.kerb_left + plan.bay_left) / 2 - 0.05, (plan.kerb_right + plan.bay_right) / 2 + 0.05)
        for x, heading in ((lanes[0], 1), (lanes[1], -1)):
            z = rng.uniform(3, 7)
            while z < self._end:
                shape = (HATCHBACK, SALOON, HATCHBACK, VAN)[int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))]
                grey = int(rng.choice([40, 52, 70, 94, 120, 148, 186]))
                z += shape.length / 2
                near_zebra = plan.zebra_z - 8 < z < plan.zebra_z + 9
                if not near_zebra and rng.random() < 0.42:
                    flip = -1 if rng.random() < 0.15 else 1
                    cars.append(Car(shape, x + rng.normal(0, 0.06), z, 0.0, grey, heading * flip))
                z += shape.length / 2 + rng.uniform(0.9, 2.2)
        return cars

    def _trees(self, rng: Rng) -> list[Actor]:
        leafy = [textures.leafy_tree(rng) for _ in range(4)]
        bare = [textures.bare_tree(rng) for _ in range(3)]
        trees: list[Actor] = []

        def plant(x: float, z: float, *, in_leaf: bool) -> None:
            size = rng.uniform(0.75, 1.05)
            choice = leafy if in_leaf else bare
            first, second = (choice[i] for i in rng.choice(len(choice), 2, replace=False))
            width, height = (5.0, 7.5) if in_leaf else (6.0, 8.0)
            trees.append(_Tree((first, second), x, z, width * size, height * size))

        for z in np.arange(12.0, self._end, 19.0).tolist():
            plant(
                self.plan.kerb_right + 0.6 + rng.normal(0, 0.1),
                z + rng.normal(0, 1.5),
                in_leaf=bool(rng.random() < 0.6),
            )
        for z in np.arange(26.0, self._end, 31.0).tolist():
            plant(self.plan.kerb_left - 0.6, z + rng.normal(0, 2.5), in_leaf=bool(rng.random() < 0.5))
        for z in np.arange(32.0, 62.0, 6.5).tolist():
            plant(self.plan.front_right + rng.uniform(2.5, 6), z, in_leaf=bool(rng.random() < 0.7))
        return trees

    def _furniture(self, rng: Rng) -> list[Actor]:
        plan, posts = self.plan, []
        sign_left, sign_right = plan.kerb_left - 0.45, plan.kerb_right + 0.45
        disc = Plate(2.5, 0.62, 0.62, 20, (44, 226, 60))
        warning = Plate(2.5, 0.72, 0.66, 3, (50, 228, 40))
        board = Plate(2.6, 0.95, 0.65, 4, (220, 58))
        name = Plate(1.9, 1.1, 0.4, 4, (40, 225))
        signal = Plate(3.0, 0.36, 1.0, 4, (22,), (70, 64, 214))
        for z in np.arange(14.0, self._end, 26.0).tolist():
            posts.append(Post(sign_left - 0.1, z + rng.normal(0, 1), 7.2, 0.085, 78, arm=1.3))
            posts.append(Post(sign_right + 0.1, z + 13 + rng.normal(0, 1), 7.2, 0.085, 78, arm=-1.3))
        z = 7.0
        while z < self._end:
            plates = (disc, warning, board, name)[int(rng.integers(4))]
            left = rng.random() < 0.55
            posts.append(Post(sign_left if left else sign_right, z, plates.y + 0.2, 0.05, 112, (plates,)))
            z += rng.uniform(5, 11)
        for x in (plan.kerb_left - 0.35, plan.kerb_right + 0.35):
            globe = Plate(3.1, 0.42, 0.42, 20, (170, 205))
            posts.append(Post(x, plan.zebra_z - 0.6, 2.9, 0.08, 24, (globe,), bands=5))
            posts.append(Post(x, plan.zebra_z + 3.6, 2.9, 0.08, 24, (globe,), bands=5))
            posts += [Post(x, z, 3.5, 0.07, 40, (signal,)) for z in (88.0, 93.0)]
        posts += [Post(plan.kerb_left - 0.3, z, 1.0, 0.07, 40) for z in np.arange(24.0, 30.0, 1.5).tolist()]
        return list(posts)

    def _people(self, rng: Rng) -> list[Actor]:
        plan, people = self.plan, []

        def walker(x: float, z: float, vx: float, vz: float) -> None:
            coat, legs = (int(rng.choice([26, 40, 62, 96, 150, 205])) for _ in range(2))
            people.append(Person(x, z, vx, vz, rng.uniform(1.6, 1.86), coat, min(legs, 100), rng.uniform(0, 6)))

        for x0, x1, count in (
            (plan.front_left + 0.6, plan.kerb_left - 1.0, 0.20),
            (plan.kerb_right + 1.1, plan.front_right - 0.5, 0.16),
        ):
            for _ in range(int(self._end * count)):
                speed = rng.uniform(1.0, 1.7) * (1 if rng.random() < 0.5 else -1)
                x, z = rng.uniform(x0, x1), rng.uniform(9, self._end)
                walker(x, z, 0.0, speed)
                if rng.random() < 0.4:
                    walker(x + 0.55 if x + 0.55 < x1 else x - 0.55, z + rng.uniform(-0.3, 0.3), 0.0, speed)
        # On the zebra crossing: behind the car ahead, in a gap of the oncoming ones, and before the camera arrives.
        walker(7.4, plan.zebra_z + 1.0, -1.6, 0.0)
        walker(8.1, plan.zebra_z + 1.9, -1.55, 0.0)
        walker(-6.2, plan.zebra_z + 1.5, 0.7, 0.0)
        return list(people)

    def _traffic(self, rng: Rng) -> list[Actor]:
        lane = 2 * self.plan.centre_line
        actors: list[Actor] = [
            Cyclist(-1.35, 15.0, self.config.speed * 0.78, 168, rng.uniform(0, 6)),
            Cyclist(-1.6, 41.0, self.config.speed * 0.62, 58, rng.uniform(0, 6)),
            Car(SALOON, 0.05, 31.0, self.config.speed * 0.97, 118, 1),
        ]
        for z in (17.0, 34.0, *np.arange(76.0, self._end + 60, 31.0).tolist()):
            shape = (HATCHBACK, SALOON, VAN)[int(rng.choice(3, p=[0.5, 0.4, 0.1]))]
            x, place = lane + rng.normal(0, 0.1), z + rng.uniform(0, 5)
            actors.append(Car(shape, x, place, -self.config.speed, int(rng.choice([46, 80, 124, 170])), -1))
        return actors
