"""Images, masks and regions that are damaged: an edit that is right, or one line."""

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.io.images import read_picture
from tests.fuzz.mutations import damaged, miswritten
from tests.fuzz.outcome import Fuzzed, Outcome

WIDTH, HEIGHT = 24, 16


def pixels(dtype: Any = np.uint8) -> np.ndarray:
    """(HEIGHT, WIDTH, 3), smooth."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    share = np.stack([x / WIDTH, y / HEIGHT, (x + y) / (WIDTH + HEIGHT)], axis=2)
    return (share * np.iinfo(dtype).max).astype(dtype)


def encoded(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    """An image file by Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels()).convert(mode).save(file, kind, **how)
    return file.getvalue()


def tiff(array: np.ndarray, **how: Any) -> bytes:
    """A TIFF file by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **how)
    return file.getvalue()


def sideways() -> Image.Exif:
    """Of a camera that was turned."""
    exif = Image.Exif()
    exif[274] = 6
    return exif


FILES: dict[str, bytes] = {
    "rgb.png": encoded("PNG"),
    "alpha.png": encoded("PNG", "RGBA", dpi=(72, 72)),
    "palette.png": encoded("PNG", "P"),
    "grey.png": encoded("PNG", "L", exif=sideways()),
    "camera.jpg": encoded("JPEG", exif=sideways(), quality=95),
    "print.jpg": encoded("JPEG", "CMYK"),
    "lossy.webp": encoded("WEBP"),
    "lossless.webp": encoded("WEBP", "RGBA", lossless=True),
    "rgb.tif": tiff(pixels(), photometric="rgb"),
    "deep.tif": tiff(pixels(np.uint16), photometric="rgb", compression="zlib"),
}
CORNER = np.zeros((HEIGHT, WIDTH), np.uint8)
CORNER[:4, :4] = 255
REGIONS: list[dict[str, Any]] = [
    {"prompt": "make it red", "box": [0, 0, 12, "50%"]},
    {"prompt": "make it green", "strip": ["50%", 24], "guidance_scale": 5},
    {"prompt": "make it blue", "mask": "corner.png"},
]


def edit(
    fuzzed: Fuzzed, model: Path, image: Path, *options: object, name: str = "edited.png"
) -> tuple[Outcome, Path]:
    """A step of csd-edit-panorama."""
    output = fuzzed.folder / "out" / name
    args = ["--image", image, "--output", output, "--model", model, "--device", "cpu", *options]
    args += ["--num-steps", 1, "--stride", 4]  # windows of the tiny model have 8 latent pixels
    return fuzzed.run(PanoramaOptions, edit_panorama, args, output), output


def as_pillow_reads(path: Path) -> np.ndarray | None:
    """The RGB pixels of a picture; None if Pillow has a conversion of its own."""
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        if image.mode not in ("RGB", "RGBA", "L", "P"):
            return None
        image.load()
        turned = image
        with suppress(Exception):  # damaged EXIF
            turned = ImageOps.exif_transpose(image)
        return np.asarray(turned.convert("RGBA" if "A" in turned.getbands() else "RGB"))[..., :3]


def test_the_files_are_sound(fuzzed: Fuzzed, tiny_epsilon: Path) -> None:
    for name, content in FILES.items():
        with fuzzed.example() as folder:
            (folder / name).write_bytes(content)
            done, _ = edit(fuzzed, tiny_epsilon, folder / name, "--prompt", "make it red")
            assert done.code == 0


@given(data=st.data(), name=st.sampled_from(list(FILES)), kind=st.sampled_from(["png", "jpg", "tif", "webp"]))
def test_an_image(fuzzed: Fuzzed, tiny_epsilon: Path, name: str, kind: str, data: st.DataObject) -> None:
    content = data.draw(damaged(FILES[name]))
    with fuzzed.example() as folder:
        (folder / name).write_bytes(content)
        prompt = "--prompt", "make it red"
        done, output = edit(fuzzed, tiny_epsilon, folder / name, *prompt, name=f"e.{kind}")
        if done.code == 0:
            source = read_picture(folder / name)
            assert read_picture(output).pixels.shape == source.pixels.shape
            expected = None if name.endswith(".tif") else as_pillow_reads(folder / name)
            if expected is not None:
                np.testing.assert_array_equal(source.pixels, expected)


@given(data=st.data(), name=st.sampled_from(["rgb.png", "camera.jpg", "rgb.tif"]))
def test_a_mask(fuzzed: Fuzzed, tiny_epsilon: Path, name: str, data: st.DataObject) -> None:
    kind = {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[name[-3:]]
    file = io.BytesIO()
    Image.fromarray(CORNER).save(file, kind)
    content = data.draw(damaged(file.getvalue()))
    with fuzzed.example() as folder:
        (folder / name).write_bytes(content)
        (folder / "image.png").write_bytes(FILES["rgb.png"])
        mask = "--mask", folder / name
        done, output = edit(fuzzed, tiny_epsilon, folder / "image.png", "--prompt", "make it red", *mask)
        if done.code == 0 and kind == "PNG":
            with Image.open(folder / name) as image:
                black = np.asarray(image.convert("L")) == 0
            np.testing.assert_array_equal(read_picture(output).pixels[black], pixels()[black])


@given(text=miswritten(REGIONS), wrap=st.booleans())
def test_regions(fuzzed: Fuzzed, tiny_epsilon: Path, text: str, wrap: bool) -> None:
    with fuzzed.example() as folder:
        (folder / "image.png").write_bytes(FILES["rgb.png"])
        Image.fromarray(CORNER).save(folder / "corner.png")
        (folder / "regions.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        options = "--regions", folder / "regions.json", *(["--wrap"] if wrap else [])
        done, output = edit(fuzzed, tiny_epsilon, folder / "image.png", *options)
        if done.code == 0:
            assert read_picture(output).size == (HEIGHT, WIDTH)
