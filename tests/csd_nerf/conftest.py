"""A tiny capture and commands of a few steps, for the tests of the nerfstudio method."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PROMPT = "snow"
NUM_VIEWS = 11  # nerfstudio holds out one of them

# sizes at which a step takes milliseconds
SMALL: dict[str, str | tuple[str, ...]] = {
    "--base-steps": "4",
    "--max-num-iterations": "13",
    "--steps-per-save": "2",
    "--pipeline.datamanager.edit-interval": "3",
    "--pipeline.datamanager.edit.num-steps": "2",
    "--pipeline.datamanager.edit.batch-size": "4",
    "--pipeline.datamanager.train-num-rays-per-batch": "128",
    "--pipeline.model.log2-hashmap-size": "12",
    "--pipeline.model.num-levels": "4",
    "--pipeline.model.num-proposal-samples-per-ray": ("12", "8"),
    "--pipeline.model.num-nerf-samples-per-ray": "6",
    "--logging.local-writer.enable": "False",
}


def write_capture(
    folder: Path, sizes: list[tuple[int, int]], *, channels: int = 3, radius: float = 3.0
) -> Path:
    """A capture of random smooth images, sizes as (width, height), with cameras on a ring."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    frames = []
    for index, (width, height) in enumerate(sizes):
        coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
        name = f"images/{index:03d}.png"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
        angle = 2 * np.pi * index / len(sizes)
        cos, sin = np.cos(angle), np.sin(angle)
        pose = [
            [-sin, 0, cos, radius * cos],
            [cos, 0, sin, radius * sin],
            [0, 1, 0, 0.1 * index],
            [0, 0, 0, 1],
        ]
        frame: dict[str, Any] = {"file_path": name, "transform_matrix": pose, "w": width, "h": height}
        frame |= {"fl_x": 40.0, "fl_y": 40.0, "cx": width / 2, "cy": height / 2}
        frames.append(frame)
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", "frames": frames}))
    return folder


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of 11 views of 32 x 32. Do not write into it."""
    return write_capture(tmp_path_factory.mktemp("capture") / "scene", [(32, 32)] * NUM_VIEWS)


def change_transforms(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the transforms.json of a capture in place."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def add_masks(
    folder: Path, mask: Callable[[int, tuple[int, int]], Image.Image], suffix: str = ".png"
) -> None:
    """Give each frame of a capture a mask; mask: (number, (width, height)) -> picture."""
    (folder / "masks").mkdir()

    def add(content: dict[str, Any]) -> None:
        for index, frame in enumerate(content["frames"]):
            frame["mask_path"] = f"masks/{index:03d}{suffix}"
            mask(index, (frame["w"], frame["h"])).save(folder / frame["mask_path"])

    change_transforms(folder, add)


def left_half(_: int, size: tuple[int, int]) -> Image.Image:
    """A grey mask, white on the left."""
    picture = Image.new("L", size)
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    return picture


def arguments(data: Path, out: Path, editor: Path, *more: str, prompt: str = PROMPT) -> list[str]:
    """Arguments of a short csd-nerf2nerf-tiny run; those in `more` replace the defaults."""
    settings = SMALL | {
        "--data": str(data),
        "--output-dir": str(out),
        "--timestamp": "run",
        "--pipeline.datamanager.model": str(editor),
        "--pipeline.datamanager.prompt": prompt,
    }
    settings |= zip(more[::2], more[1::2], strict=True)
    words = ["csd-nerf2nerf-tiny"]
    for name, value in settings.items():
        words += [name, *((value,) if isinstance(value, str) else value)]
    return words


def environment(**more: str) -> dict[str, str]:
    """Of a command without network."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "COLUMNS": "200", **more}


def console_command(name: str) -> str:
    """Path of a command that is installed beside the interpreter."""
    return str(Path(sys.executable).parent / name)


def run_command(name: str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run an installed command to its end."""
    command = [console_command(name), *words]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=300)


def parse(words: list[str]) -> Any:
    """The trainer config that ns-train makes of its arguments, --data applied; nothing is checked yet."""
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=words)
    config.pipeline.datamanager.data = config.data
    return config


def train(config: Any) -> Any:
    """What ns-train does with a config, in this process and without a viewer; returns the trainer."""
    from nerfstudio.scripts.train import _set_random_seed

    config.set_timestamp()
    config.vis = "none"
    config.save_config()
    _set_random_seed(config.machine.seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer
