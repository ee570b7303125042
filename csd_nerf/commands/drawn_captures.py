"""Synthetic captures for measurements: `python -m csd_nerf.commands.drawn_captures FOLDER` writes them.

table      the demo's scene
exposure   the same with an exposure that changes from photo to photo
walk       outdoors: a walk with a turning camera, far houses and sky, poses as inaccurate as a phone's
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from nerfstudio.data.utils.dataparsers_utils import get_train_eval_split_fraction
from numpy.typing import NDArray

from csd_core.command import run_command
from csd_core.mini_editor.raycast import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Box,
    Color,
    Ground,
    Scene,
    Sphere,
    Texture,
    View,
    look_at,
)
from csd_nerf.commands.demo_scene import demo_scene, orbit, write_demo_scene, write_drawn

HELD_OUT = 0.1
"""Share of photos that nerfstudio's data parser holds out by default."""


@dataclass
class DrawConfig:
    """Where the captures go."""

    folder: tyro.conf.Positional[Path]
    """Gets one folder for each capture."""


def exposures(num_views: int, seed: int = 1) -> NDArray[np.float64]:
    """Factors from 0.6 to 1.4 on the light of each photo, (num_views,); held-out photos have 1."""
    factors = np.exp(np.random.default_rng(seed).uniform(-0.5, 0.35, num_views))
    _, held_out = get_train_eval_split_fraction([str(k) for k in range(num_views)], 1 - HELD_OUT)
    factors[held_out] = 1
    return factors


CREAM: Color = (0.93, 0.90, 0.82)
SLATE: Color = (0.36, 0.40, 0.46)
SAND: Color = (0.78, 0.72, 0.60)
BRICK: Color = (0.62, 0.36, 0.28)
LEAF: Color = (0.22, 0.42, 0.18)
PALE_LEAF: Color = (0.40, 0.52, 0.22)


def walk_scene() -> Scene:
    """A terrace with a row of slabs and coloured objects, trees around it, houses 22 to 60 units away."""
    rng = np.random.default_rng(3)
    return Scene(
        objects=[*_houses(rng), *_trees(rng), *_slabs(), *_things()],
        ground=Ground(Texture(SAND, SLATE, "checker", period=1.4)),
        zenith=(0.36, 0.55, 0.85),
        horizon=(0.82, 0.87, 0.92),
        light=(0.5, -0.4, 0.7),
        ambient=0.5,
    )


def _houses(rng: np.random.Generator) -> list[Box]:
    walls = (BRICK, SAND, CREAM, SLATE)
    houses = []
    for k in range(18):
        angle, distance = 2 * np.pi * k / 18 + rng.uniform(-0.1, 0.1), rng.uniform(22, 60)
        height, width = rng.uniform(2.5, 7), rng.uniform(2, 5)
        wall = walls[k % 4]
        texture = Texture(wall, CREAM if wall is SLATE else SLATE, "checker", period=rng.uniform(2, 4))
        centre = (distance * np.cos(angle), distance * np.sin(angle), height)
        houses.append(Box(centre, (width, width * 0.8, height), texture, yaw=rng.uniform(0, 3)))
    return houses


def _trees(rng: np.random.Generator) -> list[Sphere | Box]:
    trees: list[Sphere | Box] = []
    for _ in range(10):
        angle, distance, size = rng.uniform(0, 2 * np.pi), rng.uniform(7, 16), rng.uniform(0.7, 1.6)
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        trees.append(Sphere((x, y, size + 1), size, Texture(LEAF, PALE_LEAF, "marble", period=0.8)))
        trees.append(Box((x, y, 0.6), (0.15, 0.15, 0.6), Texture(BRICK)))
    return trees


def _slabs() -> list[Box]:
    texture = Texture(CREAM, SAND, "stripes", period=0.3)
    return [Box((x, 2.6, 0.35), (0.32, 0.08, 0.35), texture) for x in np.linspace(-4.5, 4.5, 12)]


def _things() -> list[Sphere | Box]:
    balls = [(-3, 1.2, 0.4, RED), (2.6, 1.1, 0.35, GREEN), (0.2, -1.9, 0.35, RED), (4.2, 0.4, 0.6, RED)]
    crates = [
        (-1.2, 1.8, 0.3, ORANGE),
        (0.8, 1.5, 0.5, BLUE),
        (-2.2, -1.6, 0.45, BLUE),
        (2.2, -1.5, 0.5, ORANGE),
    ]
    return [
        *(Sphere((x, y, z), z, Texture(color)) for x, y, z, color in balls),
        *(
            Box((x, y, z), (0.4, 0.3, z), Texture(color, CREAM, "stripes", period=0.4), yaw=x)
            for x, y, z, color in crates
        ),
    ]


def walk(num_views: int = 76, width: int = 240, height: int = 135, seed: int = 0) -> list[View]:
    """Cameras at head height along a path of eight units, turning from side to side."""
    rng = np.random.default_rng(seed)
    focal = 0.8 * width
    views = []
    for way in np.linspace(0, 1, num_views):
        eye = np.array([8 * way - 4, 0.5 * np.sin(5 * way) + rng.normal(0, 0.04), 1.45 + rng.normal(0, 0.03)])
        yaw = np.radians(80 + 90 * np.sin(4.4 * np.pi * way)) + rng.normal(0, 0.04)
        pitch = np.radians(5 * np.sin(17 * way) - 8)
        ahead = [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)]
        pose = look_at(eye, (eye + ahead).tolist())
        views.append(View(pose, focal, focal, width / 2, height / 2, width, height))
    return views


def rough_poses(views: list[View], degrees: float = 0.2, units: float = 0.01, seed: int = 2) -> list:
    """The views' camera-to-world matrices (4, 4), turned and moved at random by these standard deviations."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    poses = []
    for view in views:
        pose = np.array(view.camera_to_world, np.float64)
        pose[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec(rng.normal(0, np.radians(degrees), 3)).as_matrix()
        pose[:3, 3] += rng.normal(0, units, 3)
        poses.append(pose)
    return poses


def draw(config: DrawConfig) -> None:
    """Render the captures that scenes are measured on."""
    write_demo_scene(config.folder / "table")
    views = orbit(32, 128, seed=0)
    write_drawn(config.folder / "exposure", demo_scene(), views, exposures=exposures(len(views)).tolist())
    views = walk()
    gains = np.exp(np.random.default_rng(4).normal(0, 0.05, len(views)))
    write_drawn(
        config.folder / "walk", walk_scene(), views, poses=rough_poses(views), exposures=gains.tolist()
    )


if __name__ == "__main__":
    sys.exit(run_command(DrawConfig, draw))
