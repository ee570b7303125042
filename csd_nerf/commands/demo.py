"""The demo: a capture, base training and editing through the real ns-train, then a picture and figures.

Everything lands in outputs/demo: scene/ (the capture as it was used), runs/ (nerfstudio's), before_after.png
and figures.json.
"""

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from csd_core.command import run_command
from csd_core.errors import UserError
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.nerfstudio_compat.quiet import quiet_environment, silence_others

METHOD = "csd-nerf2nerf-tiny"
DEFAULT_PROMPT = "make it night"


@dataclass
class DemoConfig:
    """What to edit, and how long."""

    data: Path | None = None
    """A capture in nerfstudio's format. Default: a small scene that the demo draws."""
    prompt: str = DEFAULT_PROMPT
    """The instruction. The shipped editor knows a few dozen; it names them when it does not know one."""
    model: str | None = None
    """The editor, as in --pipeline.datamanager.model. Default: the one that ships with the package."""
    output: Path = Path("outputs/demo")
    """Folder for everything that the demo leaves."""
    max_side: int = 256
    """Photos larger than this are used at 1/2, 1/3 ... of their size; your files stay as they are."""
    appearance: bool = False
    """Let each photo have an appearance of its own, where exposure changes from photo to photo."""
    base_steps: int | None = None
    """Steps of base training. Default: the preset's."""
    steps: int | None = None
    """Steps in all. Default: the preset's."""
    edit_steps: int | None = None
    """Optimisation steps of one edit. Default: the preset's."""
    edit_interval: int | None = None
    """Training steps between two rounds of edits. Default: the preset's."""
    verbose: bool = False
    """Show nerfstudio's own lines and configuration, and tracebacks of errors."""


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    base_seconds: float
    """Wall time of base training, from the start of the run to its first round."""
    round_seconds: list[float]
    """Wall time of each round of edits: renders, edit, files."""
    train_seconds: float
    """Wall time of ns-train in all."""
    peak_gib: float
    """The most memory that a process of the demo held."""


def demo(config: DemoConfig) -> None:
    """Train a scene, edit it by an instruction, and show held-out views before and after."""
    silence_others()
    from csd_core.mini_editor.edits import INSTRUCTIONS, find_instruction
    from csd_nerf.console import choose_lines

    console = Console()
    check(config)
    choose_lines(nerfstudios=config.verbose)
    if find_instruction(config.prompt) is None:
        known = ", ".join(instruction.wordings[0] for instruction in INSTRUCTIONS.values())
        console.print(
            f"The shipped editor does not know {config.prompt!r} and may do anything; it knows: {known}."
        )
    config.output.mkdir(parents=True, exist_ok=True)
    console.rule("1/3  capture")
    scene = make_scene(config, console)
    console.rule(f'2/3  base training and editing: "{config.prompt}"')
    run, seconds = train(config, scene)
    console.rule("3/3  before and after")
    finish(config, run, seconds, console)


def check(config: DemoConfig) -> None:
    """Raise a UserError for input that cannot work, before anything is written."""
    if not config.prompt.strip():
        raise UserError('no prompt: say what to change, for instance PROMPT="make it night"')
    if config.max_side < 16:
        raise UserError(f"max_side: expected at least 16 pixels, got {config.max_side}")
    if config.data is not None:
        read_transforms(config.data)


def read_transforms(folder: Path) -> dict[str, Any]:
    """transforms.json of a capture.

    Raises:
        UserError: there is none, or it is no list of frames.
    """
    path = folder / "transforms.json"
    if not path.is_file():
        raise UserError(f"{folder}: expected a nerfstudio capture with transforms.json, found none")
    try:
        transforms = json.loads(path.read_text())
        frames = [frame["file_path"] for frame in transforms["frames"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}); make it anew with ns-process-data"
        ) from error
    if not frames:
        raise UserError(f"{path}: expected frames, found none; make it anew with ns-process-data")
    return transforms


def make_scene(config: DemoConfig, console: Console) -> Path:
    """The folder to train on: the drawn scene, a smaller copy of a capture, or the capture itself."""
    if config.data is None:
        scene = write_demo_scene(config.output / "scene")
        console.print(f"Drew {len(list((scene / 'images').iterdir()))} photos of a small scene: {scene}")
        return scene
    factor = downscale_factor(config.data, config.max_side)
    if factor == 1:
        return config.data
    scene = shrink_capture(config.data, config.output / "scene", factor)
    console.print(f"The photos are used at 1/{factor} of their size: {scene}")
    return scene


def downscale_factor(capture: Path, max_side: int) -> int:
    """The whole number by which photos must be divided so that none has a longer side than max_side.

    Raises:
        UserError: the first photo is missing or damaged.
    """
    frame = read_transforms(capture)["frames"][0]
    with _open(capture / frame["file_path"]) as image:
        return math.ceil(max(image.size) / max_side)


_PIXELS = ("fl_x", "fl_y", "cx", "cy")


def shrink_capture(capture: Path, folder: Path, factor: int) -> Path:
    """Copy a capture with its photos and masks 1/factor as large; depth maps and point clouds are left out.

    `folder` appears only when it is complete; an older one there is replaced. The capture is only read.

    Raises:
        UserError: a photo is missing or damaged.
    """
    transforms = read_transforms(capture)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        fresh = Path(beside) / folder.name
        frames = [_shrink_frame(frame, capture, fresh, factor) for frame in transforms["frames"]]
        whole = {key: value for key, value in transforms.items() if key != "ply_file_path"}
        small = _shrink_intrinsics(whole, factor) | {"frames": frames}
        (fresh / "transforms.json").write_text(json.dumps(small, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fresh, folder)
    return folder


def _shrink_frame(frame: dict[str, Any], capture: Path, folder: Path, factor: int) -> dict[str, Any]:
    small = _shrink_intrinsics(frame, factor)
    small.pop("depth_file_path", None)
    for key, how in (("file_path", Image.Resampling.BOX), ("mask_path", Image.Resampling.NEAREST)):
        if key not in frame:
            continue
        with _open(capture / frame[key]) as image:
            resized = image.resize((image.width // factor, image.height // factor), how)
        target = (folder / frame[key]).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        resized.save(target)
        small[key] = str(target.relative_to(folder))
    return small


def _shrink_intrinsics(values: dict[str, Any], factor: int) -> dict[str, Any]:
    small = dict(values)
    small.update({key: values[key] / factor for key in _PIXELS if key in values})
    small.update({key: values[key] // factor for key in ("w", "h") if key in values})
    return small


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.copy()
    except (OSError, SyntaxError) as error:  # SyntaxError: PIL's word for a broken PNG
        raise UserError(f"{path}: missing or damaged image; put it back, or take its frame out") from error


def train_command(config: DemoConfig, scene: Path) -> list[str]:
    """The ns-train call: the tiny preset, without viewer and without renders for statistics of its own."""
    never = str(10**9)
    options = {
        "output-dir": str(config.output / "runs"),
        "experiment-name": "demo",
        "vis": "tensorboard",
        "steps-per-eval-batch": never,
        "steps-per-eval-image": never,
        "steps-per-eval-all-images": never,
        "base-steps": config.base_steps,
        "max-num-iterations": config.steps,
        "pipeline.datamanager.prompt": config.prompt,
        "pipeline.datamanager.model": config.model,
        "pipeline.datamanager.edit.num-steps": config.edit_steps,
        "pipeline.datamanager.edit-interval": config.edit_interval,
        "pipeline.datamanager.data": str(scene),
        "pipeline.model.use-appearance-embedding": config.appearance or None,
        "verbose": config.verbose or None,
    }
    given = [
        word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))
    ]
    return [str(Path(sys.executable).with_name("ns-train")), METHOD, *given]


def train(config: DemoConfig, scene: Path) -> tuple[Path, float]:
    """Run ns-train, which shows its own progress, and give its run's folder and its wall time.

    Raises:
        SystemExit: ns-train failed and has said why; its exit code.
        UserError: something ended ns-train.
    """
    runs = config.output / "runs" / "demo" / METHOD
    known = set(runs.glob("*"))
    began = time.monotonic()
    ended = subprocess.run(train_command(config, scene), env=quiet_environment(dict(os.environ)), check=False)
    if ended.returncode < 0:
        raise UserError(
            f"ns-train was ended by signal {-ended.returncode} (9 is what lack of memory looks like)"
        )
    if ended.returncode > 0:
        raise SystemExit(ended.returncode)
    fresh = sorted(set(runs.glob("*")) - known)
    return fresh[-1], time.monotonic() - began


def measure_cost(run: Path, train_seconds: float) -> Cost:
    """Times as the run's files tell them, and the peak memory of this process and those it has waited for."""
    states = [(path, json.loads(path.read_text())) for path in sorted(run.glob("edits/round_*/state.json"))]
    rounds = [state["seconds"] for _, state in states]
    base = math.nan
    if states:
        first_round_began = states[0][0].stat().st_mtime - rounds[0]
        base = first_round_began - (run / "config.yml").stat().st_mtime
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB elsewhere
    return Cost(base, rounds, train_seconds, peak * unit / 2**30)


def finish(config: DemoConfig, run: Path, train_seconds: float, console: Console) -> None:
    """Render held-out views, write before_after.png and figures.json, print the figures."""
    from csd_nerf.commands.evaluate_edit import before_after, measure_edit, print_figures, render_held_out
    from csd_nerf.editing.quality import Quality

    _, views = render_held_out(run / "config.yml")
    figures = measure_edit(views, config.prompt)
    picture = config.output / "before_after.png"
    before_after(views, picture)
    cost = measure_cost(run, train_seconds)
    content = {**figures.as_dict(), "run": str(run), "cost": cost.__dict__, "cores": os.cpu_count()}
    (config.output / "figures.json").write_text(json.dumps(content, indent=1))
    print_figures(figures, console)
    console.print(cost_table(cost))
    console.print(f"Picture: {picture}\nFigures: {config.output / 'figures.json'}")
    # ns-viewer listens on every interface unless told otherwise
    local = "--viewer.websocket-host 127.0.0.1"
    console.print(f"Look around: ns-viewer {local} --load-config {run / 'config.yml'}")
    quality = replace(Quality.read(run), base=figures.base_to_photo)  # of all held-out views, at every pixel
    console.print(quality.verdict(), soft_wrap=True)


def cost_table(cost: Cost) -> Table:
    """What the run took."""
    table = Table(title="Cost")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("base training", f"{cost.base_seconds:.0f} s")
    if cost.round_seconds:
        mean = sum(cost.round_seconds) / len(cost.round_seconds)
        table.add_row(f"a round of edits (mean of {len(cost.round_seconds)})", f"{mean:.0f} s")
    table.add_row("ns-train in all", f"{cost.train_seconds:.0f} s")
    table.add_row("peak memory", f"{cost.peak_gib:.1f} GiB")
    return table


def main() -> int:
    """Entry point of csd-demo."""
    return run_command(DemoConfig, demo)


if __name__ == "__main__":
    sys.exit(main())
