"""Training images: synthetic ones (dead leaves, fractal textures, landscapes), ray-cast scenes and the
photographs in the wheels of scikit-image, scikit-learn and matplotlib.

Images are numpy (H, W, 3) float32 in [0, 1].
"""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import skimage
import sklearn
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.transform import resize

from csd_core.mini_editor import raycast

Array = np.ndarray

TRAINING_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "camera.png",
    "coins.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "china.jpg",
    "flower.jpg",
    "grace_hopper.jpg",
)
HELD_OUT_PHOTOGRAPHS = ("coffee.png", "rocket.jpg")
_FOLDERS = (
    Path(skimage.__file__).parent / "data",
    Path(sklearn.__file__).parent / "datasets" / "images",
    Path(matplotlib.get_data_path()) / "sample_data",
)


@cache
def photograph(name: str) -> Array:
    """A photograph in one of the wheels, (H, W, 3) in [0, 1]."""
    path = next(folder / name for folder in _FOLDERS if (folder / name).exists())
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255


def fractal(rng: np.random.Generator, size: int, beta: float) -> Array:
    """Texture with the 1/f^beta spectrum of natural images, (size, size); mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    shape = frequency.shape
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * frequency**-beta
    texture = np.fft.irfft2(spectrum, s=(size, size))
    return ((texture - texture.mean()) / (texture.std() + 1e-9)).astype(np.float32)


def colour(rng: np.random.Generator) -> Array:
    """RGB of a random hue: greys, pastels and saturated colours."""
    saturation = rng.choice([rng.uniform(0, 0.25), rng.uniform(0.2, 0.6), rng.uniform(0.6, 1.0)])
    return hsv2rgb(np.array([rng.uniform(), saturation, rng.beta(2, 1.5)]))


def dead_leaves(rng: np.random.Generator, size: int) -> Array:
    """Overlapping shaded discs, boxes and stripes over a textured ground; radii follow a power law."""
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    image = landscape(rng, size) if rng.uniform() < 0.6 else np.ones((size, size, 3)) * colour(rng)
    textures = [fractal(rng, size, rng.uniform(0.8, 1.6)) for _ in range(3)]
    for _ in range(rng.integers(4, 60)):
        radius = 3 / rng.uniform(3 / (0.45 * size), 1) ** 0.7
        x, y = rng.uniform(0, size, 2)
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 3) ** rng.choice([0, 1])
        x0, x1 = max(int(x - 2 * radius * stretch), 0), int(x + 2 * radius * stretch) + 2
        y0, y1 = max(int(y - 2 * radius * stretch), 0), int(y + 2 * radius * stretch) + 2
        u, v = xs[y0:y1, x0:x1] - x, ys[y0:y1, x0:x1] - y
        u, v = (u * np.cos(angle) + v * np.sin(angle)) / stretch, v * np.cos(angle) - u * np.sin(angle)
        square = rng.uniform() < 0.4
        distance = np.maximum(np.abs(u), np.abs(v)) if square else np.hypot(u, v)
        cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
        light = 1 + rng.uniform(-0.35, 0.35) * u / radius + rng.uniform(-0.35, 0.35) * v / radius
        grain = rng.choice([0, 0.04, 0.15]) * textures[rng.integers(3)][y0:y1, x0:x1]
        leaf = colour(rng) * np.clip(light + grain, 0.1, 1.8)[..., None]
        if rng.uniform() < 0.15:
            stripes = np.sin(u * rng.uniform(0.3, 1.5)) > 0
            leaf = np.where(stripes[..., None], leaf, colour(rng))
        image[y0:y1, x0:x1] += (leaf - image[y0:y1, x0:x1]) * cover
    return image


def landscape(rng: np.random.Generator, size: int) -> Array:
    """Two colour gradients that meet at a rough horizon, both textured."""
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    upper = colour(rng) * (1 - rows) + colour(rng) * rows
    lower = colour(rng) * (1 - rows) + colour(rng) * rows
    rough = fractal(rng, size, 2.0)
    below = (rows[..., 0] + rng.uniform(0.02, 0.15) * rough > rng.uniform(0.2, 0.9))[..., None]
    detail = fractal(rng, size, rng.uniform(0.7, 1.8))[..., None] * rng.uniform(0, 0.2)
    return np.where(below, lower * (1 + detail), upper * (1 + rng.uniform(0, 0.6) * detail))


def rendered(rng: np.random.Generator, size: int) -> Array:
    """Shaded, textured solids with hard shadows on a plane, from a random view."""
    return raycast.render(raycast.random_scene(rng), *raycast.random_view(rng, size, size), samples=2)


def photograph_crop(rng: np.random.Generator, size: int) -> Array:
    """A random crop at a random scale of a training photograph, with its colours varied."""
    image = photograph(TRAINING_PHOTOGRAPHS[rng.choice(len(TRAINING_PHOTOGRAPHS), p=_PHOTOGRAPH_SHARES)])
    short = min(image.shape[:2])
    side = int(rng.uniform(size * 0.9, short)) if short > size else short
    y, x = (int(rng.integers(0, n - side + 1)) for n in image.shape[:2])
    crop = resize(image[y : y + side, x : x + side], (size, size), anti_aliasing=True)
    return vary_colours(rng, np.asarray(crop))


_COLOURFUL = {
    *("astronaut.png", "chelsea.png", "motorcycle_left.png", "motorcycle_right.png"),
    *("china.jpg", "flower.jpg", "grace_hopper.jpg"),
}
_WEIGHTS = np.array([4.0 if name in _COLOURFUL else 1.0 for name in TRAINING_PHOTOGRAPHS])
_PHOTOGRAPH_SHARES = _WEIGHTS / _WEIGHTS.sum()


def vary_colours(rng: np.random.Generator, image: Array) -> Array:
    """Random exposure, white balance and saturation; in half of the cases a random shift of hue."""
    image = np.clip(image, 0, 1) ** rng.uniform(0.6, 1.6) * rng.uniform(0.85, 1.15, 3)
    hsv = rgb2hsv(np.clip(image, 0, 1))
    if rng.uniform() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform()) % 1
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.6, 1.6), 0, 1)
    return hsv2rgb(hsv)


def random_source(rng: np.random.Generator, size: int) -> Array:
    """One source image: 50 % photographs, 35 % dead leaves, 15 % rendered; half of them mirrored."""
    make = (photograph_crop, dead_leaves, rendered)[rng.choice(3, p=(0.5, 0.35, 0.15))]
    image = make(rng, size)
    if rng.uniform() < 0.5:
        image = image[:, ::-1]
    return np.ascontiguousarray(np.clip(image, 0, 1), dtype=np.float32)
