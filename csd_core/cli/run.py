"""An edit that a command runs: what is checkpointed, previewed, resumed, planned and reported of it."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from csd_core.cli.options import EditOptions, beside
from csd_core.cli.watch import Watch
from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.families import load_denoiser
from csd_core.denoisers.runtime.device import as_dtype, dtype_name, resolve_device
from csd_core.denoisers.runtime.memory import peak_bytes
from csd_core.engine.checkpoint import Checkpoint
from csd_core.engine.plan import plan
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import duration
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.errors import NonFiniteError, UserError, expect
from csd_core.io.files import written_beside
from csd_core.machine import describe_machine, versions


@dataclass(frozen=True)
class EditRun:
    """One run of a command, from the model to the manifest.

    Attributes:
        command: its name.
        options: its options.
        sha256: path -> hash of each input, as it was when the edit began.
        denoiser: the model.
        ranks: share the edit.
        begun: time.perf_counter() when the model was loaded.
    """

    command: str
    options: EditOptions
    sha256: Mapping[str, str]
    denoiser: Denoiser
    ranks: Ranks
    begun: float

    @classmethod
    def start(cls, command: str, options: EditOptions, sha256: Mapping[str, str], ranks: Ranks) -> "EditRun":
        """Load the model.

        Raises:
            UserError: it is unknown, out of reach or of an unknown family.
        """
        denoiser = ranks.all_or_raise(lambda: load(options, ranks))
        return cls(command, options, sha256, denoiser, ranks, time.perf_counter())

    def print_plan(self, job: PreparedEdit, about: list[tuple[str, str]]) -> None:
        """What the edit would take, in two columns."""
        if self.ranks.is_main:
            rows = [*about, *plan(job, self.denoiser, self.ranks.world_size)]
            print("\n".join(f"{name:<13} {value}" for name, value in rows))

    def edit(
        self, job: PreparedEdit, write: Callable[[Path, Tensor], None], show: Callable[[Path, Tensor], None]
    ) -> Tensor:
        """Run the edit to its end; the edited canvas, which --resume finds if writing it fails.

        Args:
            job: the edit.
            write: writes a canvas as a file of the output's kind.
            show: writes a canvas as a preview.

        Raises:
            KeyboardInterrupt: it was stopped; the state was written beside the output.
            UserError: a step gave NaN; the state before it was written beside the output.
        """
        ranks, total, options = self.ranks, job.edit.num_steps, self.options
        checkpoint = Checkpoint(options.unfinished, self.identity(job))
        start, canvas = ranks.broadcast(lambda: self._begin(checkpoint, job))
        preview = partial(show, options.preview)
        watch = Watch(total, checkpoint, preview, options.writing.preview_every, ranks)

        def write_partly(step: int, canvas: Tensor) -> Path:
            partly = beside(options.output, f"step-{step}")
            write(partly, canvas)
            return partly

        def stop(step: int, canvas: Tensor) -> Path:
            checkpoint.save(step, canvas)  # Ctrl-C may have reached another rank alone
            return write_partly(step, canvas)

        with watch.watching(start) as callback:
            try:
                canvas = job.run(canvas, start_step=start, callback=callback, ranks=ranks)
            except NonFiniteError as error:
                partly = ranks.broadcast(partial(write_partly, error.step, error.canvas))
                raise UserError(f"{error} It was written to {partly}.") from error
        if ranks.any(watch.stopped) and watch.steps_done < total:
            partly = ranks.broadcast(partial(stop, watch.steps_done, canvas))
            raise KeyboardInterrupt(
                f"stopped after step {watch.steps_done} of {total}: the state so far is {partly}; "
                "the same command with --resume continues"
            )
        if ranks.is_main:
            checkpoint.save(total, canvas)
        return canvas

    @contextmanager
    def keeping_the_edit(self) -> Iterator[None]:
        """Around the writing of the output: if it fails, the user learns that the edit is kept.

        Raises:
            UserError: with that added.
        """
        kept = "the edit is kept: add --resume to write it without computing it again"
        try:
            yield
        except UserError as error:
            if self.options.is_sampled:
                raise
            raise UserError(f"{error}; {kept}") from error
        except OSError:
            if not self.options.is_sampled:
                print_notes([kept])
            raise

    def identity(self, job: PreparedEdit) -> dict[str, Any]:
        """What the result depends on: options, settings that were left out, and the contents of the files."""
        settings = {name: value for name, value in vars(job.edit).items() if name != "chunk_size"}
        contents = {f"contents of {path}": digest[:16] for path, digest in self.sha256.items()}
        return {**self.options.identity(), "dtype": dtype_name(self.denoiser.dtype), **settings, **contents}

    def conclude(self, settings: Mapping[str, Any], evaluations: int) -> None:
        """The output is written: add a manifest with every setting and figure, and print a line.

        evaluations: of all ranks.
        """
        options, seconds = self.options, round(time.perf_counter() - self.begun, 2)
        manifest = {
            "command": self.command,
            "options": options.as_json(),
            "inputs": self.sha256,
            **settings,
            "evaluations": evaluations,
            "ranks": self.ranks.world_size,
            "seconds": seconds,
            "peak_memory_gib": round(peak_bytes(self.denoiser.device) / 2**30, 3),
            "machine": describe_machine(),
            "versions": versions(),
        }
        with written_beside(beside(options.output, ".json")) as fresh:
            fresh.write_text(json.dumps(manifest, indent=1) + "\n")
        print(f"{options.output}: {evaluations} evaluations in {duration(seconds)}")
        if not options.is_sampled:
            options.unfinished.unlink(missing_ok=True)
            if options.writing.preview_every:
                options.preview.unlink(missing_ok=True)

    def _begin(self, checkpoint: Checkpoint, job: PreparedEdit) -> tuple[int, Tensor | None]:
        """Steps done and canvas of an edit that was stopped; 0 and None where there is none."""
        if not self.options.writing.resume:
            return 0, None
        found = checkpoint.load()
        if found is None:
            print_notes([f"nothing to resume at {checkpoint.path}: starting from step 0"])
            return 0, None
        checkpoint.check_shape(found[1], job.latents[0].shape)
        print_notes([f"continuing after step {found[0]}"])
        return found


def load(options: EditOptions, ranks: Ranks = ALONE) -> Denoiser:
    """The model of the options, on this rank's device."""
    model, memory = options.model, options.memory
    device = resolve_device(ranks.device(model.device))
    return load_denoiser(
        model.model,
        torch_dtype=as_dtype(model.dtype, device),
        device=device,
        compile=memory.compile,
        offload=memory.offload,
        local_files_only=model.local_files_only,
    )


def check_ranks(options: EditOptions, ranks: Ranks) -> None:
    """Raise a UserError where several processes cannot share an edit of that method."""
    shared = ranks.is_alone or not options.is_sampled
    expect(
        shared, "WORLD_SIZE", f"one process for {options.method}; start it without torchrun", ranks.world_size
    )


def print_notes(lines: Iterable[str], ranks: Ranks = ALONE) -> None:
    """What a user may have overlooked, on stderr."""
    for line in lines if ranks.is_main else ():
        print(f"note: {line}", file=sys.stderr)


def replaced_note(options: EditOptions) -> Iterable[str]:
    """That an unfinished edit is about to be replaced."""
    kept = options.is_sampled or options.writing.resume or options.writing.dry_run
    if not kept and options.unfinished.is_file():
        yield f"{options.unfinished} is an unfinished edit, which is replaced; --resume would continue it"
