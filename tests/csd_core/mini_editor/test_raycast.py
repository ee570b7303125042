"""The ray caster against geometry worked out by hand, and against the camera convention of nerfstudio."""

import numpy as np
import pytest
import torch

from csd_core.mini_editor.raycast import (
    BLUE,
    GREEN,
    RED,
    Box,
    Ground,
    Scene,
    Sphere,
    Texture,
    look_at,
    random_scene,
    random_view,
    render,
)

BLACK = (0.0, 0.0, 0.0)
UNLIT = {"ambient": 1.0, "zenith": BLACK, "horizon": BLACK}
"""Every surface in its own colour before black."""


def is_color(image, color):
    return np.abs(image - np.asarray(color, np.float32)).max(axis=-1) < 1e-3


def test_sphere_covers_the_disc_that_geometry_says():
    distance, radius, focal = 4.0, 1.0, 100.0
    scene = Scene([Sphere((0, 0, 0), radius, Texture(RED))], **UNLIT)
    image = render(scene, look_at((distance, 0, 0), (0, 0, 0)), focal, focal, 64, 64, 128, 128)
    # Silhouette of a ball: the cone of half angle asin(r / d).
    disc_radius = focal * radius / np.sqrt(distance**2 - radius**2)
    x, y = np.meshgrid(np.arange(128) + 0.5 - 64, np.arange(128) + 0.5 - 64)
    np.testing.assert_array_equal(is_color(image, RED), np.hypot(x, y) < disc_radius)


def test_box_covers_the_rectangle_of_its_near_face():
    scene = Scene([Box((0, 0, 0), (0.5, 1.0, 0.25), Texture(GREEN))], **UNLIT)
    image = render(scene, look_at((2.5, 0, 0), (0, 0, 0)), 80, 80, 64, 48, 128, 96)
    rows, columns = np.nonzero(is_color(image, GREEN))
    # The near face lies at distance 2 and is 2.0 wide, 0.5 high: 80 / 2 = 40 pixels per unit.
    assert (columns.min(), columns.max()) == (64 - 40, 64 + 40 - 1)
    assert (rows.min(), rows.max()) == (48 - 10, 48 + 10 - 1)


def test_a_turned_box_shows_its_diagonal():
    half = 0.5
    scene = Scene([Box((0, 0, 0), (half, half, half), Texture(GREEN), yaw=np.pi / 4)], **UNLIT)
    image = render(scene, look_at((100, 0, 0), (0, 0, 0)), 4000, 4000, 64, 64, 128, 128)
    width = is_color(image, GREEN)[64].sum()
    assert width == pytest.approx(40 * 2 * half * np.sqrt(2), abs=2)


@pytest.mark.parametrize("yaw", [0.0, 0.3, 2.0])
def test_box_normals_point_out_of_the_face_that_was_hit(yaw):
    box = Box((0.2, -0.1, 0.4), (0.5, 0.8, 0.3), Texture(RED), yaw)
    rng = np.random.default_rng(0)
    o = (5 * rng.normal(size=(500, 3))).astype(np.float32)
    d = np.asarray(box.center, np.float32) + 0.2 * rng.normal(size=(500, 3)).astype(np.float32) - o
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    t = box.intersect(o, d)
    p, hit = o + np.where(np.isfinite(t), t, 0)[:, None] * d, np.isfinite(t)
    n = box.normal(p[hit])
    np.testing.assert_allclose(np.linalg.norm(n, axis=1), 1, atol=1e-5)
    assert (np.einsum("ij,ij->i", n, d[hit]) < 0).all()
    # A step inwards along the normal is inside the box, a step outwards is not.
    for step, inside in ((-1e-2, True), (1e-2, False)):
        c, s = np.cos(yaw), np.sin(yaw)
        local = (p[hit] + step * n - box.center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        assert (np.all(np.abs(local) < box.half_size, axis=1) == inside).all()


def test_nearer_shapes_hide_farther_ones_in_any_order():
    near, far = Sphere((1, 0, 0), 0.3, Texture(RED)), Sphere((-1, 0, 0), 0.6, Texture(BLUE))
    camera = look_at((4, 0, 0), (0, 0, 0))
    for objects in ([near, far], [far, near]):
        image = render(Scene(objects, **UNLIT), camera, 64, 64, 32, 32, 64, 64)
        assert is_color(image, RED)[32, 32]
        assert is_color(image, BLUE).any()


def test_pixels_are_where_nerfstudio_puts_them():
    cameras = pytest.importorskip("nerfstudio.cameras.cameras")
    rng = np.random.default_rng(3)
    scene = Scene([Sphere((0.3, 0.2, 0.4), 0.5, Texture(RED))], **UNLIT)
    view = random_view(rng, 48, 36)
    camera = cameras.Cameras(
        camera_to_worlds=torch.from_numpy(view.camera_to_world[None, :3]),
        fx=view.fx,
        fy=1.2 * view.fy,
        cx=20.0,
        cy=21.0,
        width=48,
        height=36,
    )
    rays = camera.generate_rays(camera_indices=0)
    t = (
        scene.objects[0]
        .intersect(rays.origins.reshape(-1, 3).numpy(), rays.directions.reshape(-1, 3).numpy())
        .reshape(36, 48)
    )
    image = render(scene, view.camera_to_world, view.fx, 1.2 * view.fy, 20.0, 21.0, 48, 36)
    assert 50 < np.isfinite(t).sum() < 36 * 48
    np.testing.assert_array_equal(is_color(image, RED), np.isfinite(t))


def test_the_camera_is_upright():
    scene = Scene([], ground=Ground(Texture(GREEN)), **UNLIT)
    image = render(scene, look_at((3, 1, 1), (0, 0, 1)), 40, 40, 20, 20, 40, 40)
    assert is_color(image, BLACK)[0].all()
    assert image[-1, :, 1].min() > 0.5


def test_lambert_shading_by_hand():
    ambient, light = 0.25, (1.0, 0.0, 1.0)
    scene = Scene([], ground=Ground(Texture((0.8, 0.4, 0.2))), light=light, ambient=ambient)
    image = render(scene, look_at((0, 0.01, 4), (0, 0, 0)), 64, 64, 16, 16, 32, 32)
    expected = np.array([0.8, 0.4, 0.2]) * (ambient + (1 - ambient) * np.cos(np.pi / 4))
    np.testing.assert_allclose(image[16, 16], expected, atol=1e-3)


def test_shadow_lies_away_from_the_lamp():
    objects = [Sphere((0, 0, 1.0), 0.3, Texture(RED))]
    ground = Ground(Texture((1.0, 1.0, 1.0)))
    camera = look_at((0, 0.01, 8), (0, 0, 0))

    def brightness(shadows):
        scene = Scene(objects, ground, light=(1.0, 0.0, 1.0), ambient=0.3, shadows=shadows)
        return render(scene, camera, 64, 64, 64, 64, 128, 128)

    shadow = (brightness(False) - brightness(True)).max(axis=-1) > 0.1
    # The ball at height 1 throws its shadow to x = -1, and this camera's right is -x: columns grow with -x.
    columns = np.nonzero(shadow)[1].astype(float)
    assert shadow.any()
    assert columns.mean() == pytest.approx(64 + 64 * 1 / 8, abs=1.5)


@pytest.mark.parametrize("pattern", ["checker", "stripes", "marble"])
def test_patterns_mix_their_two_colours(pattern):
    texture = Texture((1, 0, 0), (0, 0, 1), pattern, period=0.5)
    p = np.random.default_rng(0).uniform(-3, 3, (4000, 3)).astype(np.float32)
    colors = texture(p)
    share = colors[:, 2].mean()
    assert 0.35 < share < 0.65
    np.testing.assert_allclose(colors[:, 0] + colors[:, 2], 1, atol=1e-5)
    # The checker on the ground must not flicker with rounding at z = 0.
    ground = p * [1, 1, 0]
    jitter = ground + np.array([0, 0, 1e-5])
    np.testing.assert_allclose(texture(ground), texture(jitter), atol=1e-2)


def test_more_samples_are_the_mean_of_a_larger_image():
    rng = np.random.default_rng(5)
    scene, view = random_scene(rng), random_view(rng, 32, 24)
    smooth = render(scene, *view, samples=2)
    large = view._replace(
        fx=2 * view.fx, fy=2 * view.fy, cx=2 * view.cx, cy=2 * view.cy, width=2 * view.width, height=48
    )
    np.testing.assert_allclose(
        smooth, render(scene, *large).reshape(24, 2, 32, 2, 3).mean(axis=(1, 3)), atol=1e-6
    )


def test_random_scenes_are_seeded_varied_and_in_range():
    first, again = (random_scene(np.random.default_rng(1)) for _ in range(2))
    assert first == again
    images = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        images.append(render(random_scene(rng), *random_view(rng, 40, 30)))
    stack = np.stack(images)
    assert stack.shape == (12, 30, 40, 3)
    assert stack.dtype == np.float32
    assert stack.min() >= 0
    assert stack.max() <= 1
    assert stack.std(axis=0).mean() > 0.1  # from scene to scene
    assert np.mean([image.std(axis=(0, 1)).mean() for image in images]) > 0.08  # within one
