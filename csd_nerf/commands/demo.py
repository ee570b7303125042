"""The demo: a capture, base training and editing by ns-train, then a picture and figures.

Its output folder, outputs/demo, holds scene/ (the capture that is made without --data), runs/ (of ns-train),
before_after.png and figures.json.
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from csd_core.command import run_command
from csd_core.errors import UserError, expect
from csd_core.io.files import check_writable
from csd_core.io.image_headers import read_header
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.nerfstudio_compat.quiet import silence_others
from csd_nerf.nerfstudio_compat.transforms import frame_paths

METHOD = "csd-nerf2nerf-tiny"
DEFAULT_PROMPT = "make it night"


@dataclass
class DemoConfig:
    """What to edit, and how long."""

    data: Path | None = None
    """A capture in nerfstudio's format. Default: a small scene that the demo renders."""
    prompt: str = DEFAULT_PROMPT
    """The instruction. The shipped editor knows a few dozen; a warning lists them for others."""
    model: str | None = None
    """The editor, as in --pipeline.datamanager.model. Default: the one that ships with the package."""
    output: Path = Path("outputs/demo")
    """Folder for all files of the demo."""
    max_side: int = 256
    """Photos larger than this are used at 1/2, 1/3 ... of their size; the files do not change."""
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
    """Print nerfstudio's own lines and configuration, and tracebacks of errors."""


def demo(config: DemoConfig) -> None:
    """Train a scene, edit it by an instruction, and show held-out views before and after."""
    silence_others()
    from csd_nerf.console import choose_lines

    console = Console()
    scale = check(config)
    choose_lines(nerfstudios=config.verbose)
    config.output.mkdir(parents=True, exist_ok=True)
    console.rule("1/3  capture")
    scene = config.data or write_demo_scene(config.output / "scene")
    console.print(f"{len(frame_paths(scene))} photos, used at 1/{scale} of their size: {scene}")
    console.rule(f'2/3  base training and editing: "{config.prompt}"')
    run, seconds = train(config, scene, scale)
    console.rule("3/3  before and after")
    finish(config, run, seconds, console)


def check(config: DemoConfig) -> int:
    """The whole number by which photos are divided so that none has a longer side than max_side.

    Raises:
        UserError: bad input; nothing was written.
    """
    if not config.prompt.strip():
        raise UserError('no prompt: describe the edit, for instance PROMPT="make it night"')
    expect(config.max_side >= 16, "max_side", "at least 16 pixels", config.max_side)
    check_writable(config.output / "figures.json")
    if config.data is None:
        return 1
    photos = frame_paths(config.data)
    expect(len(photos) >= 3, str(config.data), "at least 3 photos", len(photos))
    return math.ceil(max(read_header(photos[0]).size) / config.max_side)


def train_command(config: DemoConfig, scene: Path, scale: int = 1) -> list[str]:
    """The call of ns-train: the tiny preset without viewer, photos at 1 / scale of their size."""
    never = str(10**9)
    options = {
        "output-dir": config.output / "runs",
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
        "pipeline.datamanager.data": scene,
        # slightly more than 1 / scale: sizes are rounded down, of cameras in float32 and of images in float64
        "pipeline.datamanager.camera-res-scale-factor": None if scale == 1 else (1 + 1e-6) / scale,
        "pipeline.model.use-appearance-embedding": config.appearance or None,
        "verbose": config.verbose or None,
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    # the parser would choose a folder of smaller images where there is one
    parser = ["nerfstudio-data", "--downscale-factor", "1"]
    photos = len(frame_paths(scene))
    if photos < 10:  # of so few the parser would hold out none; it rounds up those for training
        parser += ["--train-split-fraction", f"{(photos - 1.5) / photos:.3f}"]
    return [str(Path(sys.executable).with_name("ns-train")), METHOD, *given, *parser]


def train(config: DemoConfig, scene: Path, scale: int = 1) -> tuple[Path, float]:
    """Run ns-train, which shows its own progress; returns the folder of the run and its wall time.

    Raises:
        SystemExit: ns-train failed and has printed why; its exit code.
        UserError: a signal ended ns-train.
    """
    runs = config.output / "runs" / "demo" / METHOD
    known = set(runs.glob("*"))
    began = time.monotonic()
    ended = subprocess.run(train_command(config, scene, scale), check=False)
    if ended.returncode < 0:
        raise UserError(
            f"ns-train was ended by signal {-ended.returncode} (9 is what lack of memory looks like)"
        )
    if ended.returncode > 0:
        raise SystemExit(ended.returncode)
    fresh = sorted(set(runs.glob("*")) - known)
    return fresh[-1], time.monotonic() - began


def measure_cost(run: Path, train_seconds: float) -> dict[str, Any]:
    """Wall times in seconds from the run's files; GiB of the largest process among this one and ns-train."""
    states = [(path, json.loads(path.read_text())) for path in sorted(run.glob("edits/round_*/state.json"))]
    rounds = [state["seconds"] for _, state in states]
    base = math.nan
    if states:
        first_round_began = states[0][0].stat().st_mtime - rounds[0]
        base = first_round_began - (run / "config.yml").stat().st_mtime
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB elsewhere
    return {
        "base_seconds": base,
        "round_seconds": rounds,
        "train_seconds": train_seconds,
        "peak_gib": peak * unit / 2**30,
    }


def finish(config: DemoConfig, run: Path, train_seconds: float, console: Console) -> None:
    """Render held-out views, write before_after.png and figures.json, print the figures."""
    from csd_nerf.editing.quality import Quality
    from csd_nerf.runs.held_out import before_after, measure_edit, print_figures, render_held_out

    views = render_held_out(run / "config.yml")
    figures = measure_edit(views, config.prompt)
    picture = config.output / "before_after.png"
    before_after(views, picture)
    cost = measure_cost(run, train_seconds)
    content = {**asdict(figures), "run": str(run), "cost": cost, "cores": os.cpu_count()}
    (config.output / "figures.json").write_text(json.dumps(content, indent=1))
    print_figures(figures, console)
    rounds = f"{statistics.mean(cost['round_seconds']):.0f} s" if cost["round_seconds"] else "none"
    console.print(
        f"Base training {cost['base_seconds']:.0f} s, a round of edits {rounds} (mean of "
        f"{len(cost['round_seconds'])}), ns-train in all {train_seconds:.0f} s, peak memory "
        f"{cost['peak_gib']:.1f} GiB"
    )
    console.print(f"Picture: {picture}\nFigures: {config.output / 'figures.json'}")
    local = "--viewer.websocket-host 127.0.0.1"  # by default ns-viewer listens on every interface
    console.print(f"View it: ns-viewer {local} --load-config {run / 'config.yml'}")
    quality = replace(Quality.read(run), base=figures.base_to_photo)  # of all held-out views, at every pixel
    console.print(quality.verdict(), soft_wrap=True)


def main() -> int:
    """Entry point of csd-demo."""
    return run_command(DemoConfig, demo)


if __name__ == "__main__":
    sys.exit(main())
