"""The procedural street."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from models.classes import DDD17_CLASSES, UNLABELLED
from models.scene import Camera, Pose, Street, StreetConfig
from models.scene.canvas import Canvas, Face, Mesh, Sprite, StripTexture

CAMERA = Camera(width=346, height=260)
CONFIG = StreetConfig(seed=3, duration_s=5.0, speed=6.0, camera=CAMERA)


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(CONFIG)


@pytest.fixture
def canvas() -> Canvas:
    return level_canvas()


def level_canvas(z: float = 0.0) -> Canvas:
    """A grey sky, seen by a camera one metre above the ground that looks straight ahead."""
    camera = Camera(width=200, height=160, focal=100, horizon=80, oversampling=2, margin=0, blur=0)
    return Canvas(camera, Pose(0, 1, z, 0, 0, 0), np.full((8, 8), 200, np.uint8), 1)


def test_a_frame_holds_brightness_and_every_class(street: Street) -> None:
    seen: set[int] = set()
    for t in (0.0, 2.5, 4.9):
        frame = street.frame(t)
        assert frame.grey.shape == frame.labels.shape == (CAMERA.height, CAMERA.width)
        assert frame.grey.dtype == np.float32
        assert frame.labels.dtype == np.uint8
        assert 0 <= frame.grey.min() < 0.25
        assert 0.75 < frame.grey.max() <= 1
        assert UNLABELLED not in frame.labels
        shares = np.bincount(frame.labels.ravel(), minlength=6) / frame.labels.size
        assert 0.3 < shares[0] < 0.55, "the road fills the lower part"
        assert 0.2 < shares[1] < 0.5, "houses and sky fill the upper part"
        seen |= set(np.flatnonzero(shares > 0.003).tolist())
    assert seen == {item.id for item in DDD17_CLASSES}


def test_the_same_seed_gives_the_same_pictures_in_any_order(street: Street) -> None:
    again = Street(CONFIG)
    later, first = again.frame(1.7), again.frame(0.3)
    for ours, theirs in ((street.frame(0.3), first), (street.frame(1.7), later)):
        np.testing.assert_array_equal(ours.grey, theirs.grey)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_another_seed_gives_another_street(street: Street) -> None:
    other = Street(StreetConfig(seed=CONFIG.seed + 1, duration_s=1.0)).frame(0.3)
    assert (other.labels != street.frame(0.3).labels).mean() > 0.05


def test_pictures_change_smoothly(street: Street) -> None:
    frames = [street.frame(1.0 + k * 0.004).grey for k in range(3)]
    steps = [np.abs(b - a).mean() for a, b in pairwise(frames)]
    assert 0 < steps[0] < 0.02
    assert steps[1] == pytest.approx(steps[0], rel=0.5)


def test_brightness_and_labels_agree_at_edges(street: Street) -> None:
    """Pixels where the class changes are those where brightness changes: shifting the labels makes that worse."""
    frame = street.frame(3.3)
    dy, dx = np.gradient(frame.grey)
    slope = np.hypot(dx, dy)

    def mean_slope(shift_x: int, shift_y: int) -> float:
        labels = np.roll(frame.labels, (shift_y, shift_x), (0, 1))
        change = np.zeros_like(labels, bool)
        change[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        change[1:] |= labels[1:] != labels[:-1]
        return float(slope[8:-8, 8:-8][change[8:-8, 8:-8]].mean())

    aligned = mean_slope(0, 0)
    assert aligned > 2 * slope.mean()
    for shift in ((3, 0), (-3, 0), (0, 3), (0, -3)):
        assert mean_slope(*shift) < aligned


def test_a_point_lands_where_a_pinhole_puts_it(canvas: Canvas) -> None:
    (u, v), *_ = canvas.project(np.array([[1.0, 2.0, 10.0]]))
    # Twice the pixels: 100 px * 1 m / 10 m to the right of the middle, and as far above the horizon.
    assert (u - canvas.cx, canvas.cy - v) == pytest.approx((20.0, 20.0))


def test_the_ground_keeps_its_distances(canvas: Canvas) -> None:
    stripe = np.zeros((200, 100, 1), np.uint8)
    stripe[50:60] = 255
    canvas.ground(StripTexture(stripe, 0.1, 0.1), -5.0, 0.0, 0, 50.0)
    # 5 m and 6 m ahead of a camera 1 m up: 200 / 5 and 200 / 6 rows below the horizon.
    bright = 165 + np.flatnonzero(canvas.grey[165:, 200] > 127)
    assert (bright.min(), bright.max()) == pytest.approx((160 + 200 / 6, 160 + 200 / 5), abs=1)
    assert set(canvas.labels[:160].ravel()) == {1}
    assert set(canvas.labels[170:].ravel()) == {0}


def test_a_wall_keeps_its_distances_and_ends_at_its_top(canvas: Canvas) -> None:
    wall = np.full((100, 30, 2), 255, np.uint8)
    canvas.wall(StripTexture(wall, 0.1, 0.1), 2.0, 5.0, 10.0, 3, 255)
    columns = np.flatnonzero((canvas.labels == 3).any(axis=0))
    # From 5 m to 15 m ahead and 2 m to the right.
    assert (columns.min(), columns.max()) == pytest.approx((199.5 + 400 / 15, 199.5 + 400 / 5), abs=1.5)
    rows = np.flatnonzero(canvas.labels[:, columns.max() - 2] == 3)
    # 3 m tall, seen from 1 m up, 5 m away.
    assert (rows.min(), rows.max()) == pytest.approx((160 - 400 / 5, 160 + 200 / 5), abs=3)


def test_a_sprite_covers_its_rectangle(canvas: Canvas) -> None:
    sprite = Sprite.build(np.full((64, 64), 10, np.uint8), np.full((64, 64), 255, np.uint8))
    canvas.sprite(sprite, (-1.0, 1.0), (0.0, 2.0), 8.0, 3)
    rows, columns = (np.flatnonzero((canvas.labels == 3).any(axis=k)) for k in (1, 0))
    assert (columns.min(), columns.max()) == pytest.approx((199.5 - 25, 199.5 + 25), abs=1.5)
    assert (rows.min(), rows.max()) == pytest.approx((160 - 25, 160 + 25), abs=1.5)
    assert canvas.grey[160, 200] == 10


def test_what_reaches_behind_the_camera_is_cut() -> None:
    square = Mesh(np.array([[1.0, 0, -5], [1, 0, 20], [1, 2, 20], [1, 2, -5]]), (Face((0, 1, 2, 3), 7),))
    canvas = level_canvas()
    canvas.mesh(square, (0.0, 0.0, 0.0), 5, details=True)
    columns = np.flatnonzero((canvas.labels == 5).any(axis=0))
    assert columns.min() == pytest.approx(199.5 + 200 / 20, abs=1.5)
    assert columns.max() == canvas.width - 1
    behind = level_canvas(z=100.0)
    behind.mesh(square, (0.0, 0.0, 0.0), 5, details=True)
    assert 5 not in behind.labels


def test_a_turned_camera_shifts_the_picture() -> None:
    camera = Camera(width=200, height=160, focal=100, horizon=80, margin=20, blur=0)
    sprite = Sprite.build(np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8))

    def middle(pose: Pose) -> tuple[float, float]:
        canvas = Canvas(camera, pose, np.full((8, 8), 200, np.uint8), 1)
        canvas.sprite(sprite, (-1.0, 1.0), (0.0, 2.0), 10.0, 3)
        rows, columns = np.nonzero(canvas.finish()[1] == 3)
        return float(columns.mean()), float(rows.mean())

    x0, y0 = middle(Pose(0, 1, 0, 0, 0, 0))
    angle = 0.1
    x1, y1 = middle(Pose(0, 1, 0, angle, 0, 0))
    assert x1 - x0 == pytest.approx(-100 * np.tan(angle), abs=0.7), "turning right moves things left"
    assert y1 == pytest.approx(y0, abs=0.7)
    x2, y2 = middle(Pose(0, 1, 0, 0, angle, 0))
    assert y2 - y0 == pytest.approx(100 * np.tan(angle), abs=0.7), "turning up moves things down"
    assert x2 == pytest.approx(x0, abs=0.7)


def test_means_along_a_strip_are_exact() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (40, 4, 1), np.uint8)
    strip = StripTexture(texture, 0.5, 0.25, n_levels=2)
    start, end = np.array([0.0, 3.25, 19.5]), np.array([1.0, 7.75, 20.5])
    expected = [
        texture[:2].mean(0),
        (texture[6] * 0.5 + texture[7:15].sum(0, dtype=np.int64) + texture[15] * 0.5) / 9,
        texture[39] / 2.0,
    ]
    np.testing.assert_allclose(strip.mean(start, end, 0), np.array(expected), atol=1e-3)
    assert strip.mean(start, end, 1).shape == (3, 2, 1)
    assert strip.across == 1.0
