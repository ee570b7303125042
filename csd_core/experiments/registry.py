"""The experiments by name: what is compared, on what, and what the paper printed.

Each comes in two scales: `full` as in the paper, for real weights, and `mini` for the editor that ships with
the package, small enough for one core: at three seeds each takes about 20 minutes of it.
"""

from collections.abc import Mapping

from csd_core.engine.config import EditConfig
from csd_core.errors import expect
from csd_core.experiments import paper
from csd_core.experiments.experiment import Column, Experiment, Plot, Scale
from csd_core.experiments.paper import CONSISTENCY, DIRECTIONAL, SIMILARITY
from csd_core.experiments.settings import Prompt, Variant

PAPER_STYLES = ("Van Gogh", "Pablo Picasso", "Andy Warhol", "oriental", "Salvador Dali")
"""Appendix B.1, 'turn into ... style painting'."""

DIRECTIONAL_COLUMN = Column(DIRECTIONAL, "{clip} directional similarity", "higher")
SIMILARITY_COLUMN = Column(SIMILARITY, "{clip} image similarity", "higher")
CONSISTENCY_COLUMN = Column(CONSISTENCY, "{clip} image consistency", "higher")
LPIPS_COLUMN = Column("lpips", "LPIPS", "lower")
TRUTH_COLUMNS = (
    Column("psnr_true", "PSNR to the true edit, dB", "higher", 2),
    Column("hue_spread", "hue spread, degrees", "lower", 1),
    Column("share", "share alike", "higher", 2),
)
"""Where the right answer is known: with the mini editor."""
SECONDS_COLUMN = Column("seconds", "seconds", "lower", 1)
COST_COLUMNS = (Column("evaluations", "evaluations", "lower", 0), SECONDS_COLUMN)
PANORAMA_COLUMNS = (
    SIMILARITY_COLUMN,
    DIRECTIONAL_COLUMN,
    *TRUTH_COLUMNS,
    Column("seam_score", "seam score", "lower", 2),
    *COST_COLUMNS,
)
VIDEO_COLUMNS = (
    DIRECTIONAL_COLUMN,
    CONSISTENCY_COLUMN,
    LPIPS_COLUMN,
    Column("warp_error", "warp error", "lower", 5),
    *TRUTH_COLUMNS,
    *COST_COLUMNS,
)

STYLES = tuple(
    Prompt(name, f"turn into {name} style painting", "a photo", f"a {name} style painting")
    for name in PAPER_STYLES
)


def _mini_prompts(*names: str) -> tuple[Prompt, ...]:
    return tuple(Prompt.mini(name) for name in names)


def _guided(methods: tuple[str, ...], scales: tuple[float, ...]) -> tuple[Variant, ...]:
    return tuple(
        Variant(method, f"guidance {scale:g}", {"guidance_scale": scale})
        for method in methods
        for scale in scales
    )


def kernels() -> tuple[Variant, ...]:
    wider = (Variant("csd", f"bandwidth x {f}", {"bandwidth_factor": float(f)}) for f in (2, 3, 5))
    shared = {"shared_noise": True}
    return (
        Variant("csd"),
        *wider,
        Variant("csd", "shared noise", shared),
        Variant("csd", "shared noise, bandwidth x 3", {**shared, "bandwidth_factor": 3.0}),
    )


def speed_ups(*pools: int) -> tuple[Variant, ...]:
    """The plain scheme, what makes it faster, and in the last row all of it that is on by default."""
    plain = {"noise_pool": 0, "dtype": "float32"}
    return (
        Variant("csd", "plain", plain),
        Variant("csd", "bfloat16", {**plain, "dtype": "bfloat16"}),
        *(Variant("csd", f"pool of {pool}", {**plain, "noise_pool": pool}) for pool in pools),
        Variant("csd", "defaults", {"noise_pool": EditConfig.noise_pool, "dtype": "bfloat16"}),
    )


def _sizes(small: tuple[int, int], large: tuple[int, int]) -> tuple[Variant, ...]:
    return tuple(
        Variant(method, name, {"size": size})
        for name, size in (("small", small), ("large", large))
        for method in ("ip2p-overlap", "csd")
    )


_PAPER_GUIDANCE, _MINI_GUIDANCE = (3.0, 5.0, 7.5, 10.0), (1.5, 2.0, 2.5, 3.0)
_TRADEOFF = ("csd", "ip2p-resize", "ip2p-overlap")
_ABLATION = ("csd", "no-svgd", "sds")
_ABLATED = (
    *(Variant(method) for method in _ABLATION),
    Variant("no-svgd", "learning rate of csd", {"scaled": False}),
)
_BATCHES = tuple(Variant("csd", f"B = {b}", {"batch_size": b}) for b in (4, 8, 12))
_VIDEOS = (Variant("csd"), Variant("csd", "fewer steps", {"num_steps": 50, "lr_factor": 2.0}))
_MINI_VIDEOS = (
    Variant("csd"),
    Variant("csd", "fewer steps", {"num_steps": 8, "lr_factor": 1.5}),
    Variant("ip2p-frame"),
)
_T_RANGES = tuple(
    Variant(method, f"t {low:g} to {high:g}", {"t_range": (low, high)})
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.7, 0.98))
    for method in ("csd", "sds")
)
_SCALED = (
    "The learning rate of no-svgd is lowered so that its particles move as far as csd's; in the last row it "
    "is csd's, as where mixing is merely left out."
)
_POOLS = "Where a particle moves fewer than 2 M times, a pool of M is left out and draws are fresh."
_TRADEOFF_PLOT = Plot((SIMILARITY, DIRECTIONAL), "tradeoff")
# half a window from one to the next: half of the paper's overlap, a third of the time
_STRIDE = 16


def _small_panorama(variants: tuple[Variant, ...], prompts: tuple[Prompt, ...], num_inputs: int) -> Scale:
    return Scale(variants, prompts, num_inputs, drawn_size=(256, 128), short_side=128, stride=_STRIDE)


def _small_clip(variants: tuple[Variant, ...], prompts: tuple[Prompt, ...], num_inputs: int) -> Scale:
    return Scale(variants, prompts, num_inputs, drawn_size=(128, 128), short_side=128, num_frames=8)


_ALL = (
    Experiment(
        name="panorama-tradeoff",
        title="Panoramas: keeping the source against following the instruction",
        paper="figure 5",
        domain="panorama",
        full=Scale(_guided(_TRADEOFF, _PAPER_GUIDANCE), STYLES),
        mini=_small_panorama(
            _guided(_TRADEOFF, _MINI_GUIDANCE),
            _mini_prompts("snow", "pencil sketch"),
            2,
        ),
        columns=PANORAMA_COLUMNS,
        plot=_TRADEOFF_PLOT,
        note="Figure 5 has no numbers: csd is said to have the best trade-off, and ip2p-overlap the highest "
        "image similarity with a low directional similarity.",
    ),
    Experiment(
        name="panorama-ablation",
        title="Panoramas: csd without SVGD, and with random noise as baseline",
        paper="figure 7",
        domain="panorama",
        full=Scale(_guided(_ABLATION, _PAPER_GUIDANCE), STYLES),
        mini=_small_panorama(
            _ABLATED,
            _mini_prompts("snow", "pencil sketch", "tint"),
            2,
        ),
        columns=PANORAMA_COLUMNS,
        plot=_TRADEOFF_PLOT,
        note=f"Figure 7 has no numbers: both are said to lose image similarity, sds the other too. {_SCALED}",
    ),
    Experiment(
        name="panorama-batch",
        title="Panoramas: windows that exchange gradients in one step (B)",
        paper="table 10",
        domain="panorama",
        full=Scale(_BATCHES, STYLES, num_steps=200),
        mini=Scale(
            _BATCHES,
            _mini_prompts("snow", "pencil sketch", "tint"),
            num_inputs=1,
            drawn_size=(384, 128),
            short_side=128,
            num_steps=20,
            stride=_STRIDE,
        ),
        columns=(Column("iterations", "iterations / s", "higher", 2), *PANORAMA_COLUMNS),
        plot=Plot((SIMILARITY, DIRECTIONAL, "psnr_true", "hue_spread")),
        published=paper.PANORAMA_BATCH,
        note=paper.PANORAMA_BATCH_NOTE,
    ),
    Experiment(
        name="panorama-time",
        title="Panoramas: time at two sizes",
        paper="table 8",
        domain="panorama",
        full=Scale(_sizes((1920, 640), (3968, 4352)), STYLES[:1], num_inputs=1),
        mini=Scale(
            _sizes((256, 128), (512, 256)),
            _mini_prompts("snow"),
            num_inputs=1,
            drawn_size=(512, 256),
            short_side=256,
        ),
        columns=COST_COLUMNS,
        plot=Plot(("seconds", "evaluations")),
        published=paper.PANORAMA_TIME,
        note="Small is 1920 x 640 in the paper and 256 x 128 in miniature; large 3968 x 4352 and 512 x 256.",
        measured=False,
    ),
    Experiment(
        name="panorama-kernel",
        title="Panoramas: wider kernels and shared noise",
        paper="beyond the paper",
        domain="panorama",
        full=Scale(kernels(), STYLES),
        mini=_small_panorama(
            kernels(),
            _mini_prompts("snow", "tint", "single colour"),
            1,
        ),
        columns=PANORAMA_COLUMNS,
        plot=Plot(("hue_spread", "psnr_true", SIMILARITY, DIRECTIONAL)),
        note="Learning rates are lowered for wider kernels so that particles move as far.",
    ),
    Experiment(
        name="video",
        title="Videos: against other methods, and with fewer steps",
        paper="tables 1 and 9",
        domain="video",
        full=Scale((*_VIDEOS, Variant("ip2p-frame")), STYLES, drawn_size=(512, 512), num_steps=500),
        mini=_small_clip(
            _MINI_VIDEOS,
            _mini_prompts("snow", "pencil sketch", "tint"),
            2,
        ),
        columns=VIDEO_COLUMNS,
        plot=Plot((DIRECTIONAL, CONSISTENCY, "lpips", "hue_spread")),
        published=paper.VIDEO,
        note="FateZero, Pix2Video and Gen-1 are other people's programs: --extra NAME=FOLDER measures their "
        "outputs like ours.",
    ),
    Experiment(
        name="video-ablation",
        title="Videos: csd without SVGD, and with random noise as baseline",
        paper="table 3",
        domain="video",
        full=Scale(_ABLATED, STYLES, drawn_size=(512, 512)),
        mini=_small_clip(
            _ABLATED,
            _mini_prompts("snow", "tint"),
            2,
        ),
        columns=VIDEO_COLUMNS,
        plot=Plot((DIRECTIONAL, CONSISTENCY, "lpips", "hue_spread")),
        published=paper.VIDEO_ABLATION,
        note=_SCALED,
    ),
    Experiment(
        name="video-kernel",
        title="Videos: wider kernels and shared noise",
        paper="beyond the paper",
        domain="video",
        full=Scale(kernels(), STYLES, drawn_size=(512, 512)),
        mini=_small_clip(
            kernels(),
            _mini_prompts("snow", "tint"),
            1,
        ),
        columns=VIDEO_COLUMNS,
        plot=Plot(("hue_spread", "psnr_true", CONSISTENCY, DIRECTIONAL)),
        note="Learning rates are lowered for wider kernels so that particles move as far.",
    ),
    Experiment(
        name="panorama-speed",
        title="Panoramas: does what makes an edit faster change it",
        paper="beyond the paper",
        domain="panorama",
        full=Scale(speed_ups(4, EditConfig.noise_pool), STYLES),
        mini=_small_panorama(
            speed_ups(4, EditConfig.noise_pool),
            _mini_prompts("snow", "pencil sketch", "tint"),
            1,
        ),
        columns=PANORAMA_COLUMNS,
        plot=Plot(("hue_spread", "psnr_true", SIMILARITY, DIRECTIONAL)),
        note=_POOLS,
    ),
    Experiment(
        name="video-t-range",
        title="Videos: csd and random noise as baseline, at other timesteps",
        paper="beyond the paper",
        domain="video",
        full=Scale(_T_RANGES, STYLES, drawn_size=(512, 512)),
        mini=_small_clip(
            _T_RANGES,
            _mini_prompts("snow", "tint"),
            1,
        ),
        columns=(SIMILARITY_COLUMN, *VIDEO_COLUMNS),
        plot=Plot(("hue_spread", "psnr_true", SIMILARITY, DIRECTIONAL)),
        note="The noisier the timesteps, the less the editor sees, and the more answers it has.",
    ),
    Experiment(
        name="video-speed",
        title="Videos: does what makes an edit faster change it",
        paper="beyond the paper",
        domain="video",
        full=Scale(speed_ups(4, EditConfig.noise_pool), STYLES, drawn_size=(512, 512)),
        mini=_small_clip(
            speed_ups(4, EditConfig.noise_pool),
            _mini_prompts("snow", "pencil sketch", "tint"),
            1,
        ),
        columns=(SIMILARITY_COLUMN, *VIDEO_COLUMNS),
        plot=Plot(("hue_spread", "psnr_true", SIMILARITY, DIRECTIONAL)),
        note=_POOLS,
    ),
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}
"""By name. csd_nerf adds those of scenes."""


def find_experiment(name: str, known: Mapping[str, Experiment] = EXPERIMENTS) -> Experiment:
    """The experiment of a name.

    Raises:
        UserError: there is none.
    """
    expect(name in known, "experiment", f"one of {', '.join(known)}", name or "nothing")
    return known[name]
