"""Owns the photos, the edited views and the schedule of edits.

Training samples its pixels from one batch that holds all views; an edit replaces views inside that batch. The
batch is shuffled, so a view is found through batch["image_idx"].
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from torch import Tensor

from csd_core.engine.config import EditConfig
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.errors import UserError
from csd_nerf.console import CONSOLE
from csd_nerf.editing.progress import RunProgress
from csd_nerf.editing.quality import Quality, edited_views, held_out_views, mean_psnr
from csd_nerf.editing.rounds import EditedView, Rounds
from csd_nerf.editing.viewer_panel import EditPanel, LiveSettings
from csd_nerf.editing.views import ViewDeck, on_white, pad_to_one_shape, round_seed, to_bytes, to_float

if TYPE_CHECKING:
    from csd_core.denoisers.base import Denoiser
    from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
    from csd_nerf.csd_model import CSDModel

_SAY_EVERY = 100
"""Edits of single views between two that are told of."""
_ASK_EVERY = 10
"""Steps between two at which several ranks ask each other for requests of the viewer."""


@dataclass
class CSDDataManagerConfig(VanillaDataManagerConfig):
    """Settings of the edit: what, with which model, how often."""

    _target: type = field(default_factory=lambda: CSDDataManager)
    prompt: str = ""
    """The instruction, as one would tell a person: "make it snowy". Required."""
    model: str = "timbrooks/instruct-pix2pix"
    """The editor: a hub id, a local diffusers folder, or "mini", which ships with this package."""
    model_device: str = "auto"
    """Where the editor computes: cpu, cuda, cuda:1 ...; auto is where the scene is."""
    model_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the editor; its VAE stays in float32. auto: see denoisers/precision.py."""
    model_compile: bool = False
    """Compile the editor: it takes its time in the first round and makes every step shorter."""
    model_offload: bool = False
    """Keep the editor's parts in the memory of the host, but for the one at work: for small GPUs."""
    model_variant: str | None = None
    """Variant of the weight files: "fp16" downloads the half-precision ones."""
    model_revision: str | None = None
    """Branch, tag or commit of a hub id."""
    model_local_files_only: bool = False
    """Never touch the network."""
    keep_model_loaded: bool = True
    """Off: the editor is dropped after every round, which frees its memory for the scene."""
    edit: EditConfig = field(default_factory=EditConfig)
    """Settings of one edit; batch_size is also the number of views that a round edits."""
    edit_interval: int = 2000
    """Training steps between two rounds."""
    edit_size: int | None = None
    """Pixels of the short side while a view is edited; default: the size that the editor was trained on."""
    start_from: Literal["render", "photo", "previous"] = "render"
    """Where the edit of a view starts: the scene's render, the photo, or the view's previous edit."""
    schedule: Literal["rounds", "one-view"] = "rounds"
    """rounds: batch_size views together. one-view: one at a time by sampling, Instruct-NeRF2NeRF; give it
    edit_interval 10."""
    sampling_steps: int = 20
    """Denoising steps of a view; one-view alone."""
    sampling_range: tuple[float, float] = (0.02, 0.98)
    """Share of the noise schedule that a view is noised to, drawn for each edit; one-view alone."""


class EditingTrainer(Protocol):
    """What the schedule needs of the trainer."""

    base_dir: Path
    progress: RunProgress
    ranks: Ranks

    @property
    def first_edit_step(self) -> int:
        """The step before which the first round comes."""
        ...

    def before_round(self, step: int) -> None:
        """Called before the round that precedes `step`."""
        ...

    def after_round(self, step: int) -> None:
        """Called when the round is on disk and training sees it."""
        ...


@dataclass(frozen=True)
class Editing:
    """What a round edits with, the same on all ranks."""

    denoiser: "Denoiser"
    prompt: str
    settings: EditConfig
    progress: RunProgress
    ranks: Ranks = ALONE


class CSDDataManager(VanillaDataManager):
    """All views in memory, the edited ones in place of their photos."""

    config: CSDDataManagerConfig

    def __init__(self, config: CSDDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        edit = config.edit
        self.live = LiveSettings(config.prompt, edit.guidance_scale, edit.image_guidance_scale)
        self.quality = Quality()
        self.rounds_done = 0
        self._last_round_step = -1
        self._last_views: list[int] = []
        self._round_requested = False
        self._deck = ViewDeck(len(self.train_dataset), edit.seed)
        self._denoiser: Denoiser | None = None  # not a module: in no checkpoint, not seen by the viewer
        if self.test_mode == "val":  # training; ns-viewer, ns-render and ns-eval open a run in other modes
            self.edit_panel = EditPanel(self.live, self.request_round)

    # ---- views

    def setup_train(self) -> None:
        """Load all photos and remember where each lies in the batch."""
        super().setup_train()
        batch = self.train_image_dataloader.cached_collated_batch
        assert batch is not None, "all views must be in memory"
        self._images: Tensor | list[Tensor] = batch["image"]
        self._position = {int(view): place for place, view in enumerate(batch["image_idx"])}
        self._photos: dict[int, Tensor] = {}  # uint8 copies of the photos that were replaced
        self._edits: dict[int, Tensor] = {}

    def photo(self, view: int) -> Tensor:
        """The captured photo as uint8 (3, H, W), at training size; transparent parts lie on white."""
        if view in self._photos:
            return self._photos[view]
        return to_bytes(on_white(self._images[self._position[view]]))

    def edited_view(self, view: int) -> Tensor | None:
        """The view's latest edit, uint8 (3, H, W); None before its first."""
        return self._edits.get(view)

    def replace_view(self, view: int, edit: Tensor) -> None:
        """Put an edit, uint8 (3, H, W), in the place of a photo. Training sees exactly these bytes."""
        image = self._images[self._position[view]]
        if edit.shape[1:] != image.shape[:2]:
            raise UserError(
                f"view {view}: its edit is {tuple(edit.shape[1:])} pixels, training uses "
                f"{tuple(image.shape[:2])}; use the scale that the run began with "
                "(camera_res_scale_factor, downscale_factor)"
            )
        self._photos.setdefault(view, self.photo(view))
        self._edits[view] = edit
        image[..., :3] = to_float(edit).permute(1, 2, 0).to(image.device)

    # ---- schedule

    @property
    def views_per_round(self) -> int:
        """The batch size, or all views where there are fewer; one by the schedule one-view."""
        if self.config.schedule == "one-view":
            return 1
        return min(self.config.edit.batch_size, len(self.train_dataset))

    def request_round(self) -> None:
        """Edit before the next step of training, out of turn."""
        self._round_requested = True

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Edits happen before a step of training."""
        pipeline, trainer = training_callback_attributes.pipeline, training_callback_attributes.trainer

        def edit_if_due(step: int) -> None:
            if self._is_due(step, trainer.first_edit_step, trainer.ranks):  # type: ignore[union-attr]
                self._edit(step, pipeline.model, trainer)  # type: ignore[union-attr, arg-type]

        where = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        return [
            *super().get_training_callbacks(training_callback_attributes),
            TrainingCallback(where, edit_if_due, update_every_num_iters=1),
        ]

    def _is_due(self, step: int, first: int, ranks: Ranks = ALONE) -> bool:
        requested = self._was_requested(step, ranks)
        if step < first:
            if requested:
                CONSOLE.print(f"Base training comes first: edits begin at step {first}.")
            return False
        on_schedule = (step - first) % self.config.edit_interval == 0
        return requested or (on_schedule and step != self._last_round_step)

    def _was_requested(self, step: int, ranks: Ranks) -> bool:
        """Whether anybody asked for a round, on any rank; the request is then done with."""
        if not ranks.is_alone and step % _ASK_EVERY:
            return False
        requested, self._round_requested = self._round_requested, False
        return ranks.any(requested)

    def _edit(self, step: int, model: "CSDModel", trainer: EditingTrainer) -> None:
        # a checkpoint for every single view would cost more than its edit; a killed run edits some anew
        with_checkpoints = self.config.schedule == "rounds"
        if self.rounds_done == 0:
            self.measure_base(model, trainer)
        elif with_checkpoints:
            self.measure_round(model, trainer)
        if with_checkpoints or self.rounds_done == 0:
            trainer.before_round(step)
        self.run_round(step, model, Rounds(trainer.base_dir / "edits"), trainer.progress, trainer.ranks)
        if with_checkpoints:
            trainer.after_round(step)

    # ---- how good it is

    def measure_base(self, model: "CSDModel", trainer: EditingTrainer) -> None:
        """Tell how well the scene renders held-out photos before the first edit; FILE keeps it."""
        dataset = cast(Any, self.eval_dataset)
        value = trainer.ranks.from_main(lambda: mean_psnr(model, held_out_views(dataset)))
        self.quality.base_is(value)
        if trainer.ranks.is_main:
            self.quality.write(trainer.base_dir)

    def measure_round(self, model: "CSDModel", trainer: EditingTrainer) -> None:
        """The same of how well the scene renders the views that were edited last, as they were edited."""
        cameras = self.train_ray_generator.cameras
        edits = {view: self._edits[view] for view in self._last_views}
        value = trainer.ranks.from_main(
            lambda: mean_psnr(model, edited_views(cameras, edits), follow_poses=True)
        )
        self.quality.round_is(self.rounds_done, value)
        if trainer.ranks.is_main:
            self.quality.write(trainer.base_dir)

    # ---- a round

    def run_round(
        self, step: int, model: "CSDModel", rounds: Rounds, progress: RunProgress, ranks: Ranks = ALONE
    ) -> list[int]:
        """Edit the next views together, write the round to disk, then let training see it.

        Args:
            step: the step of training that comes next.
            model: the scene; rendered where the edit starts from it.
            rounds: where the round is kept.
            progress: shows renders and steps of the edit.
            ranks: share the renders and the evaluations; rank 0 writes, and its edits are everyone's.

        Returns:
            The views that were edited.

        Raises:
            NonFiniteError: a prediction was NaN; nothing was replaced or written.
            UserError: the editor cannot be loaded.
        """
        began, number, deck = time.monotonic(), self.rounds_done + 1, copy.deepcopy(self._deck)
        views = deck.draw(self.views_per_round)
        prompt, settings = ranks.from_main(lambda: self._asked(number))
        with progress.round(number):
            denoiser = ranks.together(self._load_denoiser)
            done = self._edit_views(views, model, Editing(denoiser, prompt, settings, progress, ranks))
        state = {
            "round": number,
            "step": step,
            "prompt": prompt,
            "start_from": self.config.start_from,
            "model": self.config.model,
            "edit": asdict(settings),
            "seconds": round(time.monotonic() - began, 3),
        }
        folder = ranks.from_main(lambda: rounds.write(number, done, state))
        edits = ranks.from_main(lambda: [view.edit for view in done])  # to the byte, whatever the devices do
        done = [view._replace(edit=edit) for view, edit in zip(done, edits, strict=True)]
        for view in done:
            self.replace_view(view.index, view.edit)
        self.quality.edits_are(number, done)
        self.rounds_done, self._last_round_step, self._deck, self._last_views = number, step, deck, views
        if not self.config.keep_model_loaded:
            self._denoiser = None
            torch.cuda.empty_cache()
        if self.config.schedule == "rounds" or number % _SAY_EVERY == 1:
            spent = f"{len(done)} views in {state['seconds']:.0f} s"
            CONSOLE.print(f"Round {number}: {spent}; see {folder}/contact_sheet.png")
        return views

    def _edit_views(self, views: Sequence[int], model: "CSDModel", editing: Editing) -> list[EditedView]:
        from csd_core.image_ops import fit_to_editor, resize

        short_side = self.config.edit_size or editing.denoiser.native_size
        photos = [self.photo(view) for view in views]
        sources = [fit_to_editor(to_float(photo), short_side) for photo in photos]
        starts = self._starts(views, sources, model, editing.progress, editing.ranks)
        how = self._renewed if self.config.schedule == "one-view" else self._together
        edits = how(pad_to_one_shape(sources), pad_to_one_shape(starts), editing).cpu()
        return [
            EditedView(
                view,
                photo,
                to_bytes(start),
                to_bytes(resize(edit[:, : s.shape[1], : s.shape[2]], _size(photo))),
            )
            for view, photo, s, start, edit in zip(views, photos, sources, starts, edits, strict=True)
        ]

    def _together(self, sources: Tensor, starts: Tensor, editing: Editing) -> Tensor:
        """Collaborative score distillation, the views as its particles."""
        from csd_core.engine.loop import edit_images

        with editing.progress.task("editing", editing.settings.num_steps) as advance:
            return edit_images(
                editing.denoiser,
                sources,
                editing.prompt,
                editing.settings,
                init=starts,
                callback=lambda step, canvas: advance(1),
                ranks=editing.ranks,
            )

    def _renewed(self, sources: Tensor, starts: Tensor, editing: Editing) -> Tensor:
        """Instruct-NeRF2NeRF's edit: sampled from a start that is noised in part."""
        from csd_core.baselines import SamplingConfig, ip2p_renewed
        from csd_core.image_ops import pad_to_multiple
        from csd_core.method.schedule import step_generator

        settings, (low, high) = editing.settings, self.config.sampling_range
        drawn = float(torch.rand((), generator=step_generator(settings.seed, 0, 0)))
        sampling = SamplingConfig(
            self.config.sampling_steps,
            settings.guidance_scale,
            settings.image_guidance_scale,
            settings.negative_prompt,
            settings.max_batch,
            settings.seed,
        )
        padded, condition = (pad_to_multiple(x, editing.denoiser.downscale) for x in (starts, sources))
        with editing.progress.task("editing", 1) as advance:
            edits = ip2p_renewed(
                cast("InstructPix2Pix", editing.denoiser),
                padded,
                condition,
                editing.prompt,
                sampling,
                level=low + drawn * (high - low),
            )
            advance(1)
        return edits[..., : sources.shape[-2], : sources.shape[-1]]

    def _starts(
        self,
        views: Sequence[int],
        sources: Sequence[Tensor],
        model: "CSDModel",
        progress: RunProgress,
        ranks: Ranks = ALONE,
    ) -> list[Tensor]:
        """Where each edit starts, at the size of its source."""
        from csd_core.image_ops import resize

        if self.config.start_from == "photo":
            return list(sources)
        if self.config.start_from == "previous":
            latest = [self._edits.get(view) for view in views]
            return [
                source if edit is None else resize(to_float(edit), _size(source))
                for source, edit in zip(sources, latest, strict=True)
            ]
        renders = self.render(views, sources, model, progress, ranks)
        return [resize(render, _size(source)) for render, source in zip(renders, sources, strict=True)]

    @torch.no_grad()
    def render(
        self,
        views: Sequence[int],
        like: Sequence[Tensor],
        model: "CSDModel",
        progress: RunProgress,
        ranks: Ranks = ALONE,
    ) -> list[Tensor]:
        """Render training views, (3, h, w) in [0, 1]: the size of `like`, or of training if smaller."""
        sizes = [min(_size(image), _size(self.photo(view))) for view, image in zip(views, like, strict=True)]
        rays = [self._pixel_grid(view, size) for view, size in zip(views, sizes, strict=True)]
        cameras = torch.cat([which for which, _ in rays])
        coords = torch.cat([where for _, where in rays])
        mine = -(-len(coords) // ranks.world_size)
        with progress.task("rendering", mine) as advance:

            def colours(cameras: Tensor, coords: Tensor) -> Tensor:
                done, chunk = [], model.config.eval_num_rays_per_chunk
                for part in zip(cameras.split(chunk), coords.split(chunk), strict=True):
                    bundle = self.train_ray_generator.cameras.generate_rays(*part).to(model.device)
                    model.camera_optimizer.apply_to_raybundle(bundle)  # the very rays that training uses
                    done.append(model.render_rgb(bundle).cpu())
                    advance(len(bundle))
                return torch.cat(done)

            rendered = ranks.share(colours, cameras, coords)
        images = rendered.split([height * width for height, width in sizes])
        return [
            image.view(height, width, 3).permute(2, 0, 1).clamp(0, 1)
            for image, (height, width) in zip(images, sizes, strict=True)
        ]

    def _pixel_grid(self, view: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Camera number (n, 1) and pixel (y, x) (n, 2) of the rays through the centres of size's pixels."""
        height, width = _size(self.photo(view))
        y = (torch.arange(size[0]) + 0.5) * (height / size[0])
        x = (torch.arange(size[1]) + 0.5) * (width / size[1])
        coords = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).view(-1, 2).to(self.device)
        return torch.full((len(coords), 1), view, device=self.device), coords

    def _asked(self, number: int) -> tuple[str, EditConfig]:
        """Instruction and settings of round `number`, as the viewer's panel has them now."""
        live = replace(self.live)
        settings = replace(
            self.config.edit,
            guidance_scale=live.guidance_scale,
            image_guidance_scale=live.image_guidance_scale,
            seed=round_seed(self.config.edit.seed, number),
        )
        return live.prompt.strip() or self.config.prompt, settings

    def _load_denoiser(self) -> "Denoiser":
        if self._denoiser is None:
            from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
            from csd_core.denoisers.loading import resolve_device
            from csd_core.denoisers.runtime.precision import as_dtype

            config = self.config
            device = resolve_device(self.device if config.model_device == "auto" else config.model_device)
            self._denoiser = InstructPix2Pix.from_pretrained(
                config.model,
                torch_dtype=as_dtype(config.model_dtype, device),
                device=device,
                compile=config.model_compile,
                offload=config.model_offload,
                variant=config.model_variant,
                revision=config.model_revision,
                local_files_only=config.model_local_files_only,
            )
        return self._denoiser

    # ---- what a checkpoint keeps; the edited views themselves lie in the folders of the rounds

    def edit_state(self) -> dict[str, Any]:
        """The schedule as plain data."""
        return {
            "rounds_done": self.rounds_done,
            "last_round_step": self._last_round_step,
            "last_views": self._last_views,
            "quality": self.quality.as_dict(),
            "deck": asdict(self._deck),
            "live": self.live.as_dict(),
            "configured": self._configured().as_dict(),
        }

    def load_edit_state(self, state: dict[str, Any], rounds: Rounds) -> None:
        """Go on from edit_state(), with the edited views of `rounds`.

        What the command line changed since then counts; what it left alone goes on as it was last, even where
        the viewer had changed it.

        Raises:
            UserError: a round is missing, or the views have another size.
        """
        try:
            edits = rounds.read(state["rounds_done"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{rounds.folder}: expected rounds 1 to {state['rounds_done']}, but: {error}"
            ) from error
        for view, edit in edits.items():
            self.replace_view(view, edit)
        self.rounds_done, self._last_round_step = state["rounds_done"], state["last_round_step"]
        self._deck = ViewDeck(**state["deck"])
        self._last_views = state.get("last_views", [])  # runs of before these were measured have none
        self.quality = Quality(**state.get("quality", {}))
        now = self._configured().as_dict()
        for name, before in state["configured"].items():
            setattr(self.live, name, state["live"][name] if now[name] == before else now[name])
        if self.rounds_done and self.live.prompt != state["live"]["prompt"]:
            CONSOLE.print(f"The prompt changes from {state['live']['prompt']!r} to {self.live.prompt!r}.")
        if hasattr(self, "edit_panel"):
            self.edit_panel.show(self.live)

    def _configured(self) -> LiveSettings:
        edit = self.config.edit
        return LiveSettings(self.config.prompt, edit.guidance_scale, edit.image_guidance_scale)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
