"""The options of csd-experiment, and what an experiment is made ready as."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Tensor

from csd_core.denoisers.runtime.precision import DType, as_dtype, dtype_name
from csd_core.errors import expect
from csd_core.experiments.experiment import Experiment, Scale
from csd_core.experiments.figures import Figures
from csd_core.experiments.grid import Cell, Work
from csd_core.experiments.settings import Prompt, Variant, known_methods, read_prompts

if TYPE_CHECKING:
    from csd_core.evaluation import Tools


@dataclass(kw_only=True)
class ExperimentOptions:
    """Options of csd-experiment."""

    name: tyro.conf.Positional[str]
    """The experiment."""
    output: Path
    """Folder for edits, tables and plots. What is in it is not done again; several processes may share it,
    and those that torchrun starts do."""
    model: str = "mini"
    """Hub id, diffusers folder, or mini: the small editor that ships with this package. For mini all is
    small, for others as in the paper."""
    clip: str | None = None
    """Extractor: an open_clip name, a folder, or mini. Default: ViT-bigG-14; with model mini, mini."""
    clip_weights: Path | None = None
    """Checkpoint file of the extractor."""
    inputs: Path | None = None
    """Folder of pictures; for videos of videos and folders of frames. Default: what the package draws."""
    prompts: tuple[str, ...] = ()
    """Names of some of the experiment's instructions, with mini of any of the editor's; or a JSON file with a
    list of {"name", "text", "source", "target"}. Default: all of the experiment's."""
    methods: tuple[str, ...] = ()
    """Only these. Default: all of the experiment's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds."""
    num_inputs: int | None = None
    """So many inputs."""
    num_frames: int | None = None
    """So many frames of a video."""
    size: int | None = None
    """Short side of the inputs in pixels."""
    num_steps: int | None = None
    """Optimisation steps, where a method does not set them."""
    stride: int | None = None
    """Latent pixels from window to window of a panorama."""
    extra: tuple[str, ...] = ()
    """NAME=FOLDER: outputs of another program, as FOLDER/INPUT/PROMPT/ of frames, or the frames alone where
    there is one input and one instruction."""
    device: tuple[str, ...] = ()
    """cpu, cuda:0 ...; several work side by side. Default: CUDA where there is one."""
    dtype: DType | None = None
    """Precision of the model. Default: float16 on CUDA, float32 elsewhere."""
    max_cells: int | None = None
    """Do so many edits at most, and leave the others for later."""
    measure: bool = True
    """Measure the edits and write tables. Without it edits alone."""
    dry_run: bool = False
    """Say how many edits and evaluations it takes, and do nothing."""
    local_files_only: bool = False
    """Never touch the network."""
    verbose: bool = False
    """Show the traceback of an error."""

    def check(self, experiment: Experiment) -> None:
        """Raise a UserError that names the first option out of range."""
        for name in ("num_inputs", "num_frames", "size", "num_steps", "stride", "max_cells"):
            given = getattr(self, name)
            expect(given is None or given >= 1, name.replace("_", "-"), "at least 1", given)
        expect(len(self.seeds) > 0, "seeds", "at least one", "none")
        expect(all(seed >= 0 for seed in self.seeds), "seeds", "0 or more", self.seeds)
        expect(len(set(self.seeds)) == len(self.seeds), "seeds", "each of them once", self.seeds)
        for pair in self.extra:
            name, _, folder = pair.partition("=")
            expect(bool(name and folder), "extra", "NAME=FOLDER", pair)
            expect(Path(folder).is_dir(), f"extra {name}", "a folder", folder)
        expect(not self.extra or experiment.domain == "video", "extra", "an experiment on videos", self.name)

    @property
    def precision(self) -> str:
        """The name of the type that the model computes in."""
        first = torch.device(self.device[0] if self.device else "cpu")
        return dtype_name(as_dtype(self.dtype, first))

    def prompts_of(self, scale: Scale, is_mini: bool) -> list[Prompt]:
        """The instructions that are asked for.

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

    def variants_of(self, scale: Scale, experiment: Experiment) -> list[Variant]:
        """The rows that are asked for.

        Raises:
            UserError: a method is none of the experiment's.
        """
        known = dict.fromkeys(variant.method for variant in scale.variants)
        for name in self.methods:
            kind = "not in this experiment" if name in known_methods(experiment.domain) else "unknown"
            expect(name in known, "methods", f"some of {', '.join(known)}", f"{name}, which is {kind}")
        return [v for v in scale.variants if not self.methods or v.method in self.methods]


@dataclass(frozen=True)
class Entry:
    """A cell, and what it belongs to."""

    cell: Cell
    variant: Variant
    prompt: Prompt


@dataclass(frozen=True)
class Prepared:
    """An experiment made ready: what run.py needs of a domain."""

    entries: Sequence[Entry]
    """The grid, in the order of work."""
    work: Work
    """Makes a cell."""
    measure: "Callable[[Entry, Path, Tools], Figures]"
    """(entry, folder of all cells, extractors) -> figures."""
    evaluations: Callable[[Cell], int | None]
    """Of the editor's network, counted without computing; None where that cannot be known."""
    rows: Callable[[Entry, Path], tuple[Tensor, Tensor]]
    """(entry, folder of all cells) -> source and edit for the contact sheet, (n, 3, H, W) in [0, 1] each."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the tables say of inputs, model and the like, as JSON values."""
