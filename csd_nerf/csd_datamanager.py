"""Owns the photos, the edited views and the schedule of edits.

Training samples its pixels from one batch that holds all views; an edit replaces views inside that batch. The
batch is shuffled, so a view is found through batch["image_idx"].
"""

import copy
import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from torch import Tensor

from csd_core.choices import MAX_PIXELS
from csd_core.engine.config import EditConfig
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.errors import UserError
from csd_core.image_ops import fit_to_editor, resize
from csd_nerf.console import CONSOLE
from csd_nerf.csd_dataset import CaptureDataset
from csd_nerf.editing.edit import Editing, edit_by_sampling, edit_together, load_editor
from csd_nerf.editing.progress import RunProgress
from csd_nerf.editing.quality import Quality, edited_views, held_out_views, mean_psnr
from csd_nerf.editing.rendering import render_views
from csd_nerf.editing.rounds import EditedView, Rounds
from csd_nerf.editing.viewer_panel import EditPanel, LiveSettings
from csd_nerf.editing.views import ViewDeck, on_white, round_seed, to_bytes, to_float
from csd_nerf.nerfstudio_compat.captures import reading_captures
from csd_nerf.nerfstudio_compat.pixel_sampler import MaskedPixelSampler

if TYPE_CHECKING:
    from csd_core.denoisers.base import Denoiser
    from csd_nerf.csd_model import CSDModel

_PRINT_EVERY = 100
"""Edits of single views between two that are printed."""
_ASK_EVERY = 10
"""Steps between two at which several ranks exchange requests from the viewer."""


@dataclass
class CSDDataManagerConfig(VanillaDataManagerConfig):
    """Settings of the edit: instruction, editor, schedule."""

    _target: type = field(default_factory=lambda: CSDDataManager)
    prompt: str = ""
    """The instruction, for example "make it snowy". Required."""
    model: str = "timbrooks/instruct-pix2pix"
    """The editor: a hub id, a local diffusers folder, or "mini", which ships with this package."""
    model_device: str = "auto"
    """Device of the editor: cpu, cuda, cuda:1 ...; auto: the device of the scene."""
    model_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the editor; its VAE stays in float32. auto: what the device computes fast."""
    model_compile: bool = False
    """Compile the editor: the first round takes longer, every step is faster."""
    model_offload: bool = False
    """Keep the parts of the editor in host memory, except the one in use: for small GPUs."""
    model_variant: str | None = None
    """Variant of the weight files: "fp16" downloads the half-precision ones."""
    model_revision: str | None = None
    """Branch, tag or commit of a hub id."""
    model_local_files_only: bool = False
    """Do not use the network."""
    keep_model_loaded: bool = True
    """Off: free the editor's memory after every round and load it again for the next."""
    edit: EditConfig = field(default_factory=EditConfig)
    """Settings of one edit; batch_size is also the number of views in a round."""
    edit_interval: int = 2000
    """Training steps between two rounds."""
    edit_size: int | None = None
    """Short side of a view in pixels while it is edited. Default: the size that the editor was trained on."""
    start_from: Literal["render", "photo", "previous"] = "render"
    """Where the edit of a view starts: the scene's render, the photo, or the view's previous edit."""
    schedule: Literal["rounds", "one-view"] = "rounds"
    """rounds: batch_size views together. one-view: one view at a time by sampling, as Instruct-NeRF2NeRF;
    use it with edit_interval 10."""
    sampling_steps: int = 20
    """Denoising steps of a view; only for one-view."""
    sampling_range: tuple[float, float] = (0.02, 0.98)
    """Share of the noise schedule to which a view is noised, sampled for each edit; only for one-view."""
    pixel_sampler: PixelSamplerConfig = field(
        default_factory=lambda: PixelSamplerConfig(_target=MaskedPixelSampler)
    )
    """See nerfstudio's."""
    max_pixels: int = MAX_PIXELS
    """Larger photos are refused: they may be decompression bombs."""


class CSDDataManager(VanillaDataManager):
    """All views in memory, the edited ones in place of their photos."""

    config: CSDDataManagerConfig

    def __init__(self, config: CSDDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        with reading_captures():
            super().__init__(config, *args, **kwargs)
        self.live = self._configured()
        self.quality = Quality()
        self.rounds_done = 0
        self._last_round_step = -1
        self._last_views: list[int] = []
        self._round_requested = False
        self._deck = ViewDeck(len(self.train_dataset), config.edit.seed)
        self._denoiser: Denoiser | None = None  # not a module: neither in checkpoints nor in the viewer
        if self.test_mode == "val":  # training; ns-viewer, ns-render and ns-eval open a run in other modes
            self.edit_panel = EditPanel(self.live, self.request_round)

    # ---- views

    def create_train_dataset(self) -> CaptureDataset:
        """The training views, read by csd_core.io."""
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> CaptureDataset:
        """The held-out views."""
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, outputs: DataparserOutputs) -> CaptureDataset:
        return CaptureDataset(outputs, self.config.camera_res_scale_factor, self.config.max_pixels)

    def setup_train(self) -> None:
        """Load all photos and remember the place of each in the batch."""
        super().setup_train()
        batch = self.train_image_dataloader.cached_collated_batch
        assert batch is not None, "all views must be in memory"
        self._images: Tensor | list[Tensor] = batch["image"]
        self._position = {int(view): place for place, view in enumerate(batch["image_idx"])}
        self._photos: dict[int, Tensor] = {}  # uint8 copies of the photos that were replaced
        self._edits: dict[int, Tensor] = {}

    def photo(self, view: int) -> Tensor:
        """The captured photo as uint8 (3, H, W), at training size, transparent parts white."""
        if view in self._photos:
            return self._photos[view]
        return to_bytes(on_white(self._images[self._position[view]]))

    def edited_view(self, view: int) -> Tensor | None:
        """The view's latest edit, uint8 (3, H, W); None before its first."""
        return self._edits.get(view)

    def replace_view(self, view: int, edit: Tensor) -> None:
        """Put an edit, uint8 (3, H, W), in the place of a photo. Training uses exactly these bytes."""
        image = self._images[self._position[view]]
        if edit.shape[1:] != image.shape[:2]:
            raise UserError(
                f"view {view}: its edit is {tuple(edit.shape[1:])} pixels, training uses "
                f"{tuple(image.shape[:2])}; use the scale that the run started with "
                "(camera_res_scale_factor, downscale_factor)"
            )
        self._photos.setdefault(view, self.photo(view))
        self._edits[view] = edit
        image[..., :3] = to_float(edit).permute(1, 2, 0).to(image.device)

    # ---- schedule

    @property
    def views_per_round(self) -> int:
        """The batch size, or all views where there are fewer; one with the schedule one-view."""
        if self.config.schedule == "one-view":
            return 1
        return min(self.config.edit.batch_size, len(self.train_dataset))

    def request_round(self) -> None:
        """Edit before the next training step, out of turn."""
        self._round_requested = True

    def is_due(self, step: int, first: int, ranks: Ranks = ALONE) -> bool:
        """Whether a round precedes training step `step`; the first one precedes step `first`."""
        requested = self._was_requested(step, ranks)
        if step < first:
            if requested:
                CONSOLE.print(f"note: edits start at step {first}, after base training.")
            return False
        on_schedule = (step - first) % self.config.edit_interval == 0
        return requested or (on_schedule and step != self._last_round_step)

    def _was_requested(self, step: int, ranks: Ranks) -> bool:
        """Whether a round was requested on any rank since the last call."""
        if not ranks.is_alone and step % _ASK_EVERY:
            return False
        requested, self._round_requested = self._round_requested, False
        return ranks.any(requested)

    # ---- quality

    def measure_base(self, model: "CSDModel", ranks: Ranks) -> None:
        """Print how well the scene renders held-out photos before the first edit."""
        dataset = cast(Any, self.eval_dataset)
        self.quality.base_is(ranks.broadcast(lambda: mean_psnr(model, held_out_views(dataset))))

    def measure_round(self, model: "CSDModel", ranks: Ranks) -> None:
        """Print how well the scene renders the views of the last round, compared with their edits."""
        cameras = self.train_ray_generator.cameras
        edits = {view: self._edits[view] for view in self._last_views}
        value = ranks.broadcast(lambda: mean_psnr(model, edited_views(cameras, edits), training_poses=True))
        self.quality.round_is(self.rounds_done, value)

    # ---- a round

    def run_round(
        self, step: int, model: "CSDModel", rounds: Rounds, progress: RunProgress, ranks: Ranks = ALONE
    ) -> list[int]:
        """Edit the next views together, write the round to disk, then use it for training.

        Args:
            step: the next training step.
            model: the scene; rendered where the edit starts from it.
            rounds: where the round is written.
            progress: shows renders and steps of the edit.
            ranks: they split the renders and the evaluations; rank 0 writes, and all use its edits.

        Returns:
            The views that were edited.

        Raises:
            NonFiniteError: a prediction was NaN; nothing was replaced or written.
            UserError: the editor cannot be loaded.
        """
        began, number, deck = time.monotonic(), self.rounds_done + 1, copy.deepcopy(self._deck)
        views = deck.draw(self.views_per_round)
        prompt, settings = ranks.broadcast(lambda: self._prompt_and_settings(number))
        with progress.round(number):
            done = self._edit_views(views, model, prompt, settings, progress, ranks)
        if not self.config.keep_model_loaded:
            self._free_denoiser()
        state = {
            "round": number,
            "step": step,
            "prompt": prompt,
            "start_from": self.config.start_from,
            "model": self.config.model,
            "edit": asdict(settings),
            "seconds": round(time.monotonic() - began, 3),
        }
        folder = ranks.broadcast(lambda: rounds.write(number, done, state))
        edits = ranks.broadcast(lambda: [view.edit for view in done])  # identical bytes on all devices
        done = [view._replace(edit=edit) for view, edit in zip(done, edits, strict=True)]
        for view in done:
            self.replace_view(view.index, view.edit)
        self.quality.edits_are(number, done)
        self.rounds_done, self._last_round_step, self._deck, self._last_views = number, step, deck, views
        if self.config.schedule == "rounds" or number % _PRINT_EVERY == 1:
            spent = f"{len(done)} views in {state['seconds']:.0f} s"
            CONSOLE.print(f"Round {number}: {spent}; see {folder}/contact_sheet.png")
        return views

    def _edit_views(
        self,
        views: Sequence[int],
        model: "CSDModel",
        prompt: str,
        settings: EditConfig,
        progress: RunProgress,
        ranks: Ranks = ALONE,
    ) -> list[EditedView]:
        """Edit at the editor's size. The editor is local here, so that _free_denoiser can free it."""
        editing = Editing(ranks.all_or_raise(self._load_denoiser), prompt, settings, progress, ranks)
        short_side = self.config.edit_size or editing.denoiser.native_size
        photos = [self.photo(view) for view in views]
        sources = [fit_to_editor(to_float(photo), short_side) for photo in photos]
        starts = self._starts(views, sources, model, progress, ranks)
        edit = edit_together
        if self.config.schedule == "one-view":
            steps, noise_range = self.config.sampling_steps, self.config.sampling_range
            edit = partial(edit_by_sampling, steps=steps, noise_range=noise_range)
        edits = edit(sources, starts, editing).cpu()
        return [
            EditedView(
                view,
                photo,
                to_bytes(start),
                to_bytes(resize(edit[:, : s.shape[1], : s.shape[2]], _size(photo))),
            )
            for view, photo, s, start, edit in zip(views, photos, sources, starts, edits, strict=True)
        ]

    def _starts(
        self,
        views: Sequence[int],
        sources: Sequence[Tensor],
        model: "CSDModel",
        progress: RunProgress,
        ranks: Ranks = ALONE,
    ) -> list[Tensor]:
        """Where each edit starts, at the size of its source."""
        sizes = [_size(source) for source in sources]
        if self.config.start_from == "render":
            cameras = self.train_ray_generator.cameras
            renders = render_views(model, cameras, views, sizes, progress, ranks)
            return [resize(render, size) for render, size in zip(renders, sizes, strict=True)]
        previous = self._edits if self.config.start_from == "previous" else {}
        return [
            resize(to_float(previous[view]), size) if view in previous else source
            for view, source, size in zip(views, sources, sizes, strict=True)
        ]

    def _prompt_and_settings(self, number: int) -> tuple[str, EditConfig]:
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
            self._denoiser = load_editor(self.config, self.device)
        return self._denoiser

    def _free_denoiser(self) -> None:
        self._denoiser = None
        gc.collect()  # compiled and offloaded models hold references to themselves
        torch.cuda.empty_cache()

    # ---- what a checkpoint holds; the edited views themselves are in the folders of the rounds

    def edit_state(self) -> dict[str, Any]:
        """The schedule as plain data."""
        return {
            "rounds_done": self.rounds_done,
            "last_round_step": self._last_round_step,
            "last_views": self._last_views,
            "quality": asdict(self.quality),
            "deck": asdict(self._deck),
            "live": asdict(self.live),
            "configured": asdict(self._configured()),
        }

    def load_edit_state(self, state: dict[str, Any], rounds: Rounds) -> None:
        """Restore edit_state(), with the edited views of `rounds`.

        Settings that the command line changed since then are taken from there, the others from the state,
        including changes made in the viewer.

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
        self._last_views = state.get("last_views", [])  # absent in older runs, as is quality
        self.quality = Quality(**state.get("quality", {}))
        now = asdict(self._configured())
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
