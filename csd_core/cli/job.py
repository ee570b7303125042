"""An edit that a command runs: what is kept of it, what is shown of it, and what it will take."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from csd_core.cli.options import EditOptions, beside
from csd_core.cli.watch import Watch
from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.loading import resolve_device
from csd_core.denoisers.runtime.memory import peak_bytes
from csd_core.engine.checkpoint import Checkpoint
from csd_core.engine.draws import Draws
from csd_core.engine.plan import count_evaluations, fullest_step, measure_evaluation
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import duration
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.engine.source_cache import SourceCache
from csd_core.errors import NonFiniteError, UserError
from csd_core.io.files import written_beside
from csd_core.machine import describe_machine, versions


@dataclass(frozen=True)
class Job:
    """An edit under watch: it can be stopped, shown, resumed and told of.

    Attributes:
        edit: what is run.
        options: of the command.
        sha256: path -> hash of each input, as it was when the edit began.
        write: writes a canvas as a file of the output's kind.
        show: writes a canvas as a preview.
        ranks: share the edit.
    """

    edit: PreparedEdit
    options: EditOptions
    sha256: dict[str, str]
    write: Callable[[Path, Tensor], None]
    show: Callable[[Path, Tensor], None]
    ranks: Ranks = ALONE

    def run(self) -> Tensor:
        """Run the edit to its end; the edited canvas, which --resume finds should it not come to be written.

        Raises:
            KeyboardInterrupt: someone stopped it; what there is was written beside the output.
            UserError: a step gave NaN; the state before it was written beside the output.
        """
        checkpoint = Checkpoint(unfinished(self.options), self.identity())
        ranks, total = self.ranks, self.edit.edit.num_steps
        start, canvas = ranks.from_main(lambda: self._begin(checkpoint))
        watch = Watch(total, checkpoint, self._preview, self.options.preview_every, ranks)
        with watch.watching(start) as callback:
            try:
                canvas = self.edit.run(canvas, start_step=start, callback=callback, ranks=ranks)
            except NonFiniteError as error:
                partly = ranks.from_main(partial(self._write_partly, error.step, error.canvas))
                raise UserError(f"{error} It was written to {partly}.") from error
        if ranks.any(watch.stopped) and watch.steps_done < total:
            partly = ranks.from_main(partial(self._stop, checkpoint, watch.steps_done, canvas))
            raise KeyboardInterrupt(
                f"stopped after step {watch.steps_done} of {total}: so far it is {partly}; "
                "the same command with --resume goes on"
            )
        if ranks.is_main:
            checkpoint.save(total, canvas)
        return canvas

    def identity(self) -> dict[str, Any]:
        """What the result hangs on: options, settings that were left open, and the contents of the files."""
        settings = {name: value for name, value in vars(self.edit.edit).items() if name != "max_batch"}
        contents = {f"contents of {path}": digest[:16] for path, digest in self.sha256.items()}
        return {**self.options.identity(), **settings, **contents}

    def plan(self, denoiser: Denoiser) -> list[tuple[str, str]]:
        """Evaluations, time and memory that the edit will take: names and what to say of them."""
        edit = self.edit.edit
        counted = edit, self.edit.prompts, self.edit.num_particles
        total = count_evaluations(*counted)
        cost = measure_evaluation(
            denoiser,
            next(iter(self.edit.prompts)),
            self.edit.particle_size,
            edit.max_batch,
            self.edit.decode_one_tile,
            fullest=fullest_step(*counted),
        )
        shape = (denoiser.latent_channels, *self.edit.particle_size)
        kept, on_host = SourceCache.most_bytes(Draws(edit, self.edit.num_particles), shape)
        held = self.edit.nbytes + (0 if on_host and denoiser.device.type != "cpu" else kept)
        gib = cost.peak_gib + held / 2**30
        each = f"{cost.seconds:.4f} s an evaluation on {denoiser.device}, mean of two batches of {cost.batch}"
        return [
            ("evaluations", str(total)),
            ("time", f"about {duration(total * cost.seconds / self.ranks.world_size)} ({each})"),
            ("memory", f"about {gib:.2f} GiB on {denoiser.device}, all latents included"),
        ]

    def _begin(self, checkpoint: Checkpoint) -> tuple[int, Tensor | None]:
        """Steps done and canvas of an edit that was stopped; 0 and None where there is none."""
        if not self.options.resume:
            return 0, None
        found = checkpoint.load()
        if found is None:
            print(f"nothing to resume at {checkpoint.path}: beginning anew", file=sys.stderr)
            return 0, None
        print(f"going on after step {found[0]}", file=sys.stderr)
        return found

    def _preview(self, canvas: Tensor) -> None:
        self.show(self.options.preview, canvas)

    def _stop(self, checkpoint: Checkpoint, step: int, canvas: Tensor) -> Path:
        checkpoint.save(step, canvas)  # Ctrl-C may have reached another rank alone
        return self._write_partly(step, canvas)

    def _write_partly(self, step: int, canvas: Tensor) -> Path:
        partly = beside(self.options.output, f"step-{step}")
        self.write(partly, canvas)
        return partly


def load(options: EditOptions, ranks: Ranks) -> InstructPix2Pix:
    """The model on this rank's device; see EditOptions.load."""
    return ranks.together(lambda: replace(options, device=ranks.device(options.device)).load())


def hint(lines: Iterable[str], ranks: Ranks) -> None:
    """Say what a user may have overlooked."""
    for line in lines if ranks.is_main else ():
        print(f"note: {line}", file=sys.stderr)


def unfinished(options: EditOptions) -> Path:
    """Where an edit is kept that is not finished."""
    return beside(options.output, ".unfinished.safetensors")


def forget(options: EditOptions) -> None:
    """Remove what is of no use once the output is written."""
    unfinished(options).unlink(missing_ok=True)
    if options.preview_every:
        options.preview.unlink(missing_ok=True)


def conclude(
    command: str,
    options: EditOptions,
    sha256: dict[str, str],
    settings: dict[str, Any],
    evaluations: int,
    begun: float,
    ranks: Ranks = ALONE,
) -> None:
    """The output is written: add a manifest with every setting and figure, and say so.

    evaluations: of all ranks.
    begun: time.perf_counter() at the beginning.
    """
    seconds = round(time.perf_counter() - begun, 2)
    manifest = {
        "command": command,
        "options": options.as_json(),
        "inputs": sha256,
        **settings,
        "evaluations": evaluations,
        "ranks": ranks.world_size,
        "seconds": seconds,
        "peak_memory_gib": round(peak_bytes(resolve_device(options.device)) / 2**30, 3),
        "machine": describe_machine(),
        "versions": versions(),
    }
    with written_beside(beside(options.output, ".json")) as fresh:
        fresh.write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{options.output}: {evaluations} evaluations in {duration(seconds)}")


def as_table(rows: list[tuple[str, str]]) -> str:
    """Names and what to say of them, in two columns."""
    return "\n".join(f"{name:<13} {said}" for name, said in rows)
