"""A small ray caster: spheres, boxes and a ground plane, Lambert shading, hard shadows, procedural textures.

It renders the scene of the demo and training images of the mini editor. Plain numpy, all rays at once.

Notation
    o, d      origins and unit directions of the rays, (n, 3) world space, z up
    t         distance along a ray, inf if nothing is hit
    p, n      hit point and outward unit normal, (n, 3)
Cameras follow nerfstudio and OpenGL: camera-to-world matrix with columns x right, y up, z backwards; the
centre of a pixel lies at half-integer coordinates, so that the ray of pixel (i, j) passes (j + 0.5, i + 0.5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Points = NDArray[np.float64]
Color = tuple[float, float, float]
Vector = tuple[float, float, float]

RED: Color = (0.86, 0.10, 0.08)
ORANGE: Color = (0.95, 0.50, 0.06)
GREEN: Color = (0.12, 0.62, 0.16)
BLUE: Color = (0.10, 0.26, 0.84)
SATURATED: tuple[Color, ...] = (RED, ORANGE, GREEN, BLUE)

# A shadow ray starts this far from its surface, or float32 lets the surface shade itself.
_EPSILON = 1e-3


@dataclass(frozen=True)
class Texture:
    """A colour as a function of the position in space, so that surfaces need no texture coordinates."""

    color: Color
    """The main colour, RGB in [0, 1]."""
    other: Color | None = None
    """The second colour, None for a plain surface."""
    pattern: Literal["plain", "checker", "stripes", "marble"] = "plain"
    """Pattern of the two colours."""
    period: float = 0.5
    """World units from one repetition to the next."""

    def __call__(self, p: Array) -> Array:
        """Colours (n, 3) in [0, 1] at the points (n, 3)."""
        first = np.asarray(self.color, np.float32)
        if self.other is None or self.pattern == "plain":
            return np.broadcast_to(first, p.shape)
        mix = _PATTERNS[self.pattern](p / np.float32(self.period))[:, None]
        return first + (np.asarray(self.other, np.float32) - first) * mix


@dataclass(frozen=True)
class Sphere:
    """A sphere."""

    center: Vector
    radius: float
    texture: Texture

    def intersect(self, o: Array, d: Array) -> Array:
        """Distance (n,) to the first hit ahead of the origin, inf where the ray misses or starts inside."""
        oc = o - np.asarray(self.center, np.float32)
        b = _dot(oc, d)
        discriminant = b * b - _dot(oc, oc) + np.float32(self.radius**2)
        t = -b - np.sqrt(np.maximum(discriminant, 0))
        return np.where((discriminant > 0) & (t > _EPSILON), t, np.float32(np.inf))

    def normal(self, p: Array) -> Array:
        """Unit normals (n, 3) at surface points (n, 3)."""
        return (p - np.asarray(self.center, np.float32)) / np.float32(self.radius)


@dataclass(frozen=True)
class Box:
    """An upright box, rotated about the vertical axis."""

    center: Vector
    half_size: Vector
    texture: Texture
    yaw: float = 0.0
    """Radians, counter-clockwise seen from above."""

    def intersect(self, o: Array, d: Array) -> Array:
        """Distance (n,) to the first hit ahead of the origin, inf where the ray misses or starts inside."""
        to_box = self._to_box()
        o_local, d_local = (o - np.asarray(self.center, np.float32)) @ to_box, d @ to_box
        half = np.asarray(self.half_size, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / d_local
            middle, reach = -o_local * inverse, half * np.abs(inverse)
            near = _max_of_columns(middle - reach)
            far = -_max_of_columns(-(middle + reach))
        return np.where((near < far) & (near > _EPSILON), near, np.float32(np.inf))

    def normal(self, p: Array) -> Array:
        """Unit normals (n, 3) at surface points (n, 3)."""
        to_box = self._to_box()
        local = (p - np.asarray(self.center, np.float32)) @ to_box / np.asarray(self.half_size, np.float32)
        face = np.abs(local).argmax(axis=1)
        rows = np.arange(len(p))
        n = np.zeros_like(local)
        n[rows, face] = np.sign(local[rows, face])
        return n @ to_box.T

    def _to_box(self) -> Array:
        """Rotation (3, 3) from world to box axes, applied from the right."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


@dataclass(frozen=True)
class Ground:
    """The infinite horizontal plane z = height."""

    texture: Texture
    height: float = 0.0

    def intersect(self, o: Array, d: Array) -> Array:
        """Distance (n,) to the plane for rays that hit it from above, otherwise inf."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (np.float32(self.height) - o[:, 2]) / d[:, 2]
        return np.where((d[:, 2] < 0) & (t > _EPSILON), t, np.float32(np.inf))

    def normal(self, p: Array) -> Array:
        """Unit normals (n, 3): straight up."""
        return np.broadcast_to(np.array([0, 0, 1], np.float32), p.shape)


Shape = Sphere | Box | Ground


@dataclass(frozen=True)
class Scene:
    """Objects, background, and one lamp at infinity."""

    objects: Sequence[Sphere | Box]
    ground: Ground | None = None
    zenith: Color = (0.45, 0.62, 0.85)
    """Colour of the background straight up."""
    horizon: Color = (0.85, 0.88, 0.92)
    """Colour of the background at and below the horizon."""
    light: Vector = (0.45, 0.35, 0.82)
    """Direction towards the lamp (any length)."""
    ambient: float = 0.4
    """Share of ambient light; the rest comes from the lamp."""
    shadows: bool = True

    @property
    def shapes(self) -> list[Shape]:
        """The objects, then the ground if there is one."""
        return [*self.objects, *([self.ground] if self.ground else [])]


class View(NamedTuple):
    """One camera, for `render(scene, *view)`."""

    camera_to_world: Array
    """(4, 4), OpenGL axes."""
    fx: float
    fy: float
    cx: float
    cy: float
    """Focal lengths and principal point, pixels."""
    width: int
    height: int


def render(
    scene: Scene,
    camera_to_world: Array,
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    width: int,
    height: int,
    *,
    samples: int = 1,
) -> Array:
    """The image (height, width, 3) float32 in [0, 1] that a pinhole camera sees.

    Args:
        scene: objects and light.
        camera_to_world: (3, 4) or (4, 4), OpenGL axes.
        fx, fy, cx, cy: focal lengths and principal point in pixels.
        width, height: size of the image in pixels.
        samples: rays per pixel and axis; 2 gives four rays per pixel and smooth edges.
    """
    n = samples
    o, d = _camera_rays(camera_to_world, fx * n, fy * n, cx * n, cy * n, width * n, height * n)
    colors = _shade(scene, o, d)
    return colors.reshape(height, n, width, n, 3).mean(axis=(1, 3)).clip(0, 1)


def look_at(eye: Sequence[float] | Points, target: Sequence[float]) -> Array:
    """Camera-to-world matrix (4, 4) of a camera at `eye` that looks at `target`, its x axis level."""
    position = np.asarray(eye, np.float64)
    back = position - np.asarray(target, np.float64)
    back /= np.linalg.norm(back)
    right = np.cross(np.array([0.0, 0.0, 1.0]), back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return matrix.astype(np.float32)


def random_scene(rng: np.random.Generator) -> Scene:
    """Three to seven objects, most of them saturated red, orange, green or blue, on a textured ground."""
    return Scene(
        objects=[_random_object(rng) for _ in range(rng.integers(3, 8))],
        ground=Ground(_random_texture(rng, _muted_color(rng), plain=0.15)),
        zenith=_muted_color(rng),
        horizon=_muted_color(rng),
        light=(rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.6, 1.4)),
        ambient=rng.uniform(0.3, 0.6),
        shadows=bool(rng.random() < 0.8),
    )


def random_view(rng: np.random.Generator, width: int, height: int) -> View:
    """A camera around the centre of a `random_scene`, looking roughly at the centre."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(8, 50))
    distance = rng.uniform(3.0, 5.5)
    eye = distance * _direction(azimuth, elevation)
    target = (rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.1, 0.6))
    focal = rng.uniform(0.9, 1.6) * max(width, height)
    return View(look_at(eye, target), focal, focal, width / 2, height / 2, width, height)


def _camera_rays(
    camera_to_world: Array, fx: float, fy: float, cx: float, cy: float, width: int, height: int
) -> tuple[Array, Array]:
    """Origins (1, 3) and unit directions (height * width, 3), row by row."""
    matrix = np.asarray(camera_to_world, np.float32)
    x = ((np.arange(width, dtype=np.float32) + 0.5) - cx) / fx
    y = -((np.arange(height, dtype=np.float32) + 0.5) - cy) / fy
    d = np.empty((height, width, 3), np.float32)
    d[..., 0], d[..., 1], d[..., 2] = x[None, :], y[:, None], -1
    d /= np.sqrt((d * d).sum(-1, keepdims=True))
    return matrix[None, :3, 3], d.reshape(-1, 3) @ matrix[:3, :3].T


def _shade(scene: Scene, o: Array, d: Array) -> Array:
    """Colours (n, 3) seen along rays: albedo x (ambient + (1 - ambient) max(0, n . l) visible)."""
    colors = _background(scene, d)
    t, nearest = _first_hit(scene.shapes, o, d)
    light = np.asarray(scene.light, np.float32)
    light = light / np.linalg.norm(light)
    for index, shape in enumerate(scene.shapes):
        hit = np.flatnonzero(nearest == index)
        if not len(hit):
            continue
        p = (o if len(o) == 1 else o[hit]) + t[hit, None] * d[hit]
        n = shape.normal(p)
        lambert = np.maximum(n @ light, 0)
        if scene.shadows:
            lambert *= _sees_light(scene.objects, p + _EPSILON * n, light, lambert > 0)
        brightness = scene.ambient + (1 - scene.ambient) * lambert
        albedo = shape.texture(p)
        if isinstance(shape, Ground):  # a pattern far away is finer than a pixel: fade it out
            haze = (1 - np.exp(-np.maximum(t[hit] - 6, 0) / 6))[:, None]
            colors[hit] = albedo * brightness[:, None] * (1 - haze) + colors[hit] * haze
        else:
            colors[hit] = albedo * brightness[:, None]
    return colors


def _first_hit(shapes: Sequence[Shape], o: Array, d: Array) -> tuple[Array, NDArray[np.intp]]:
    """Distance (n,) to the nearest shape and its index (n,), -1 where nothing is hit."""
    best = np.full(len(d), np.inf, np.float32)
    nearest = np.full(len(d), -1, np.intp)
    for index, shape in enumerate(shapes):
        t = shape.intersect(o, d)
        closer = t < best
        best = np.where(closer, t, best)
        nearest[closer] = index
    return best, nearest


def _sees_light(objects: Sequence[Sphere | Box], p: Array, light: Array, facing: NDArray[np.bool_]) -> Array:
    """1 where the points p (n, 3) see the lamp, 0 in shadow; (n,). Only points with `facing` are traced."""
    visible = np.zeros(len(p), np.float32)
    traced = np.flatnonzero(facing)
    d = np.broadcast_to(light, (1, 3))
    free = np.ones(len(traced), bool)
    for shape in objects:
        free &= np.isinf(shape.intersect(p[traced], d))
    visible[traced] = free
    return visible


def _background(scene: Scene, d: Array) -> Array:
    """Colours (n, 3) of directions that hit nothing: a gradient over the upward component."""
    horizon = np.asarray(scene.horizon, np.float32)
    zenith = np.asarray(scene.zenith, np.float32)
    return horizon + (zenith - horizon) * np.sqrt(np.clip(d[:, 2:], 0, 1))


def _checker(p: Array) -> Array:
    # shifted along z, because the plane z = 0 would lie exactly between two cells
    return (np.floor(2 * p + np.array([0, 0, 0.25], np.float32)).sum(axis=1) % 2).astype(np.float32)


def _stripes(p: Array) -> Array:
    return (np.floor(2 * (p[:, 0] + 0.5 * p[:, 2])) % 2).astype(np.float32)


def _marble(p: Array) -> Array:
    x, y, z = (2 * np.pi * p).T
    waves = np.sin(x + 1.7 * np.sin(0.7 * y + z)) + np.sin(1.9 * y - 0.6 * x + 1.3 * np.sin(1.3 * x))
    return (0.5 + 0.25 * waves).astype(np.float32)


_PATTERNS: dict[str, Callable[[Array], Array]] = {
    "checker": _checker,
    "stripes": _stripes,
    "marble": _marble,
}


def _dot(a: Array, b: Array) -> Array:
    return np.einsum("ij,ij->i", *np.broadcast_arrays(a, b))


def _max_of_columns(a: Array) -> Array:
    """The largest of three columns, (n, 3) -> (n,); much faster than max(axis=1)."""
    return np.maximum(np.maximum(a[:, 0], a[:, 1]), a[:, 2])


def _direction(azimuth: float, elevation: float) -> Points:
    return np.array(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    )


def _random_object(rng: np.random.Generator) -> Sphere | Box:
    x, y = rng.uniform(-1.3, 1.3, 2)
    color = SATURATED[rng.integers(len(SATURATED))] if rng.random() < 0.8 else _muted_color(rng)
    texture = _random_texture(rng, _jittered(rng, color), plain=0.7)
    if rng.random() < 0.5:
        radius = rng.uniform(0.2, 0.6)
        return Sphere((x, y, radius * rng.uniform(0.8, 1.6)), radius, texture)
    half = rng.uniform(0.15, 0.55, 3)
    return Box((x, y, half[2]), tuple(half.tolist()), texture, yaw=rng.uniform(0, np.pi))


def _random_texture(rng: np.random.Generator, color: Color, plain: float) -> Texture:
    if rng.random() < plain:
        return Texture(color)
    pattern = ("checker", "stripes", "marble")[rng.integers(3)]
    return Texture(color, _jittered(rng, _muted_color(rng)), pattern, period=rng.uniform(0.25, 1.2))


def _jittered(rng: np.random.Generator, color: Color) -> Color:
    return _color(np.clip(np.asarray(color) + rng.uniform(-0.06, 0.06, 3), 0.02, 0.98))


def _muted_color(rng: np.random.Generator) -> Color:
    return _color(np.clip(rng.uniform(0.25, 0.95) + rng.uniform(-0.15, 0.15, 3), 0, 1))


def _color(values: Points) -> Color:
    red, green, blue = values.tolist()
    return red, green, blue
