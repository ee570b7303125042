"""The demo's scene: coloured objects on a table, rendered from an orbit, as a nerfstudio capture.

The capture is a folder that any nerfstudio method reads: transforms.json and images/*.png.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from csd_core.io.files import folder_written_beside
from csd_core.mini_editor.raycast import (
    BLUE,
    ORANGE,
    RED,
    Box,
    Ground,
    Scene,
    Sphere,
    Texture,
    View,
    look_at,
    render,
)


def demo_scene() -> Scene:
    """Red, orange and blue objects, one striped and one marbled, on a chequered table."""
    cream, slate, sand = (0.93, 0.90, 0.82), (0.36, 0.40, 0.46), (0.78, 0.72, 0.60)
    return Scene(
        objects=[
            Sphere((0.05, 0.0, 0.55), 0.55, Texture(RED)),
            Box((-0.95, 0.35, 0.35), (0.33, 0.33, 0.35), Texture(ORANGE), yaw=0.5),
            Sphere((0.75, -0.75, 0.28), 0.28, Texture(BLUE)),
            Box((0.85, 0.65, 0.5), (0.2, 0.2, 0.5), Texture(BLUE, cream, "stripes", period=0.5), yaw=0.9),
            Box(
                (-0.35, -0.95, 0.16), (0.45, 0.22, 0.16), Texture(RED, cream, "checker", period=0.4), yaw=0.25
            ),
            Sphere((-0.9, -0.5, 0.22), 0.22, Texture(slate, cream, "marble", period=0.5)),
        ],
        ground=Ground(Texture(sand, cream, "checker", period=1.1)),
        zenith=(0.52, 0.66, 0.84),
        horizon=(0.86, 0.87, 0.88),
        light=(0.5, -0.35, 0.9),
        ambient=0.55,
    )


def orbit(num_views: int, size: int, seed: int) -> list[View]:
    """Cameras around the scene, evenly in azimuth, with two periods of elevation and a little noise."""
    rng = np.random.default_rng(seed)
    focal = 1.02 * size
    views = []
    for turn in np.arange(num_views) / num_views:
        azimuth = 2 * np.pi * turn + rng.normal(0, 0.03)
        elevation = np.radians(34 + 10 * np.sin(4 * np.pi * turn)) + rng.normal(0, 0.03)
        flat = np.cos(elevation)
        direction = np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(elevation)])
        eye = rng.uniform(3.3, 3.7) * direction
        target = np.array([0, 0, 0.25]) + rng.normal(0, 0.04, 3)
        views.append(View(look_at(eye, target.tolist()), focal, focal, size / 2, size / 2, size, size))
    return views


def write_demo_scene(folder: Path, *, num_views: int = 32, size: int = 128, seed: int = 0) -> Path:
    """Render the scene into `folder`, which is replaced when all photos are written; returns `folder`.

    Args:
        folder: where the capture goes.
        num_views: photos around the scene.
        size: side of a photo in pixels.
        seed: of the cameras' noise; the same seed gives the same bytes.
    """
    scene, views, frames = demo_scene(), orbit(num_views, size, seed), []
    with folder_written_beside(folder) as fresh:
        (fresh / "images").mkdir()
        for index, view in enumerate(views):
            name = f"images/{index:04d}.png"
            image = render(scene, *view, samples=2).clip(0, 1)
            Image.fromarray((image * 255).round().astype(np.uint8)).save(fresh / name)
            frames.append({"file_path": name, "transform_matrix": view.camera_to_world.tolist()})
        focal, centre = {"fl_x": views[0].fx, "fl_y": views[0].fy}, {"cx": size / 2, "cy": size / 2}
        camera = {**focal, **centre, "w": size, "h": size}
        transforms = {"camera_model": "OPENCV", **camera, "frames": frames}
        (fresh / "transforms.json").write_text(json.dumps(transforms, indent=1))
    return folder
