"""The options of csd-experiment, and an experiment with its inputs, model and grid."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import tyro
from torch import Tensor

from csd_core.choices import DType
from csd_core.errors import expect
from csd_core.experiments.experiment import Experiment, Scale
from csd_core.experiments.grid import Cell
from csd_core.experiments.measures import Measures
from csd_core.experiments.settings import Prompt, Variant, read_prompts
from csd_core.io.files import check_writable

if TYPE_CHECKING:
    from csd_core.evaluation import Tools


@dataclass(kw_only=True)
class ExperimentOptions:
    """Options of csd-experiment."""

    name: tyro.conf.Positional[str]
    """The experiment."""
    output: Path
    """Folder for edits, tables and plots. Edits in it are not repeated; several processes, and the ranks of
    torchrun, may share it."""
    model: str = "mini"
    """Hub id, diffusers folder, or mini: the small editor that ships with this package. With mini
    experiments are small, with others as in the paper."""
    clip: str | None = None
    """Extractor: an open_clip name, a folder, or mini. Default: ViT-bigG-14; with model mini, mini."""
    clip_weights: Path | None = None
    """Checkpoint file of the extractor."""
    inputs: Path | None = None
    """Folder of pictures; for videos, of videos and folders of frames. Default: rendered scenes."""
    prompts: tuple[str, ...] = ()
    """Names of some of the experiment's instructions, with mini of any of the editor's; or a JSON file with a
    list of {"name", "text", "source", "target"}. Default: all of the experiment's."""
    methods: tuple[str, ...] = ()
    """Some of the experiment's methods. Default: all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the edits."""
    num_inputs: int | None = None
    """Number of inputs."""
    num_frames: int | None = None
    """Frames of a video, from its start."""
    size: int | None = None
    """Short side of the inputs in pixels."""
    num_steps: int | None = None
    """Optimisation steps, where a method does not set them."""
    stride: int | None = None
    """Latent pixels from window to window of a panorama."""
    device: str | None = None
    """cpu, cuda or cuda:1. Default: CUDA where there is one. Under torchrun each process takes its own."""
    dtype: DType | None = None
    """Precision of the model. Default: float16 on CUDA; on CPUs bfloat16 where it is native, else float32."""
    measure: bool = True
    """Measure the edits and write tables. Without it only edits are made."""
    dry_run: bool = False
    """Print how many edits of each row are to be made, and do nothing."""
    local_files_only: bool = False
    """Never access the network."""
    verbose: bool = False
    """Show the traceback of an error."""

    def check(self) -> None:
        """Raise a UserError that names the first option out of range."""
        for name in ("num_inputs", "num_frames", "size", "num_steps", "stride"):
            given = getattr(self, name)
            expect(given is None or given >= 1, name.replace("_", "-"), "at least 1", given)
        expect(len(self.seeds) > 0, "seeds", "at least one", "none")
        expect(all(seed >= 0 for seed in self.seeds), "seeds", "0 or more", self.seeds)
        expect(len(set(self.seeds)) == len(self.seeds), "seeds", "different ones", self.seeds)
        if not self.dry_run:
            check_writable(self.output / "cells" / "edits")

    def prompts_of(self, scale: Scale, is_mini: bool) -> list[Prompt]:
        """The chosen instructions.

        Raises:
            UserError: one of them is unknown.
        """
        if not self.prompts:
            return list(scale.prompts)
        if len(self.prompts) == 1 and self.prompts[0].endswith(".json"):
            return read_prompts(Path(self.prompts[0]))
        known = {prompt.name: prompt for prompt in scale.prompts}
        chosen = []
        for name in self.prompts:
            expect(name in known or is_mini, "prompts", f"some of {', '.join(known)}, or a JSON file", name)
            chosen.append(known.get(name) or Prompt.mini(name))
        return chosen

    def choices(self, scale: Scale, is_mini: bool) -> list[tuple[Prompt, Variant]]:
        """The chosen instructions, each with the chosen rows.

        Raises:
            UserError: the experiment does not have a method or an instruction.
        """
        known = dict.fromkeys(variant.method for variant in scale.variants)
        for name in self.methods:
            expect(name in known, "methods", f"some of {', '.join(known)}", name)
        variants = [v for v in scale.variants if not self.methods or v.method in self.methods]
        return list(itertools.product(dict.fromkeys(self.prompts_of(scale, is_mini)), variants))

    def grid(
        self, plan: Callable[..., Cell], sources: Sequence[Any], choices: Sequence[tuple[Prompt, Variant]]
    ) -> list[Cell]:
        """The cells plan(source, prompt, variant, seed), in the order of work."""
        whole = itertools.product(self.seeds, sources, choices)
        return [plan(source, *choice, seed) for seed, source, choice in whole]


class Work(Protocol):
    """Edits and measures the cells of a domain; `folder` is that of all cells."""

    def __call__(self, cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        """See grid.Edit."""
        ...

    def measure(self, cell: Cell, folder: Path, tools: "Tools") -> Measures:
        """The measures of a finished cell."""
        ...

    def frames(self, cell: Cell, folder: Path) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Frames of source and edit of a finished cell, (3, H, W) in [0, 1] each."""
        ...


@dataclass(frozen=True)
class PreparedExperiment:
    """What run.py needs of a domain."""

    cells: Sequence[Cell]
    """The grid, in the order of work."""
    work: Work
    """Edits and measures them."""
    settings: Mapping[str, Any]
    """What the tables list of inputs, model and their settings, as JSON values."""


Prepare = Callable[[Experiment, ExperimentOptions], PreparedExperiment]
"""Finds or renders the inputs, finds the model and builds the grid."""
