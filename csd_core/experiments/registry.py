"""The experiments on panoramas and videos: what is compared, on what, and what the paper printed.

Each comes in two scales: `full` as in the paper, for real weights, and `mini` for the editor that ships with
the package, small enough for one core: at three seeds each takes about 20 minutes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from csd_core.engine.config import EditConfig
from csd_core.experiments import paper
from csd_core.experiments.experiment import Column, Experiment, Scale
from csd_core.experiments.paper import CONSISTENCY, DIRECTIONAL, SIMILARITY
from csd_core.experiments.settings import DomainName, Prompt, Variant

# Instructions and columns -------------------------------------------------------------------------

STYLES = tuple(
    Prompt(name, f"turn into {name} style painting", "a photo", f"a {name} style painting")
    for name in ("Van Gogh", "Pablo Picasso", "Andy Warhol", "oriental", "Salvador Dali")
)
"""Appendix B.1."""
SNOW, SKETCH, TINT = (Prompt.mini(name) for name in ("snow", "pencil sketch", "tint"))

DIRECTIONAL_COLUMN = Column(DIRECTIONAL, "{clip} directional similarity", "higher")
SIMILARITY_COLUMN = Column(SIMILARITY, "{clip} image similarity", "higher")
CONSISTENCY_COLUMN = Column(CONSISTENCY, "{clip} image consistency", "higher")
LPIPS_COLUMN = Column("lpips", "LPIPS", "lower")
PSNR_COLUMN = Column("psnr_true", "PSNR to the true edit, dB", "higher", 2)
TRUTH_COLUMNS = (
    PSNR_COLUMN,
    Column("hue_spread", "hue spread, degrees", "lower", 1),
    Column("share", "share alike", "higher", 2),
)
"""Where the true edit is known: with the mini editor."""
SECONDS_COLUMN = Column("seconds", "seconds", "lower", 1)
COST_COLUMNS = (Column("evaluations", "evaluations", "lower", 0), SECONDS_COLUMN)
SEAM_COLUMN = Column("seam_score", "seam score", "lower", 2)
WARP_COLUMN = Column("warp_error", "warp error", "lower", 5)
PANORAMA_COLUMNS = (SIMILARITY_COLUMN, DIRECTIONAL_COLUMN, *TRUTH_COLUMNS, SEAM_COLUMN, *COST_COLUMNS)
VIDEO_COLUMNS = (
    DIRECTIONAL_COLUMN,
    CONSISTENCY_COLUMN,
    LPIPS_COLUMN,
    WARP_COLUMN,
    *TRUTH_COLUMNS,
    *COST_COLUMNS,
)
_AGREEMENT = ("hue_spread", "psnr_true", SIMILARITY, DIRECTIONAL)
_VIDEO_PLOT = (DIRECTIONAL, CONSISTENCY, "lpips", "hue_spread")

# Rows ---------------------------------------------------------------------------------------------


def _guided(methods: Sequence[str], scales: Sequence[float]) -> tuple[Variant, ...]:
    return tuple(
        Variant(method, f"guidance {scale:g}", {"guidance_scale": scale})
        for method in methods
        for scale in scales
    )


def _csd_by(name: str, values: Sequence[Any], title: str = "{}") -> tuple[Variant, ...]:
    return tuple(Variant("csd", title.format(value), {name: value}) for value in values)


def kernels() -> tuple[Variant, ...]:
    """Wider kernels, and shared noise."""
    shared = {"shared_noise": True}
    return (
        Variant("csd"),
        *_csd_by("bandwidth_factor", (2.0, 3.0, 5.0), "bandwidth x {:g}"),
        Variant("csd", "shared noise", shared),
        Variant("csd", "shared noise, bandwidth x 3", {**shared, "bandwidth_factor": 3.0}),
    )


def speed_ups(*pools: int) -> tuple[Variant, ...]:
    """Everything off, one by one, and in the last row everything that is on by default."""
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


ABLATION = tuple(Variant(method) for method in ("csd", "no-svgd", "sds"))
_ABLATED = (*ABLATION, Variant("no-svgd", "learning rate of csd", {"scaled": False}))
_COMPARED = ("csd", "ip2p-resize", "ip2p-overlap")
_GUIDANCE, _MINI_GUIDANCE = (3, 5, 7.5, 10), (1.5, 2, 2.5, 3)
_SPEED_UPS = speed_ups(4, EditConfig.noise_pool)
_T_RANGES = tuple(
    Variant(method, f"t {low:g} to {high:g}", {"t_range": (low, high)})
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.7, 0.98))
    for method in ("csd", "sds")
)
_FRAMEWISE = Variant("ip2p-frame")


def _fewer(num_steps: int, lr_factor: float) -> Variant:
    return Variant("csd", "fewer steps", {"num_steps": num_steps, "lr_factor": lr_factor})


# Experiments --------------------------------------------------------------------------------------

BEYOND = "beyond the paper"
_SCALED = (
    "The learning rate of no-svgd is lowered so that its particles move as far as csd's; in the last row it "
    "is csd's, as where mixing is merely left out."
)
_WIDER = "Learning rates are lowered for wider kernels so that particles move as far."
_POOLS = "A pool of M reused (t, noise) pairs is not used where a particle moves fewer than 2 M times."


_FULL = {
    "panorama": Scale((), STYLES),
    "video": Scale((), STYLES, rendered_size=(512, 512)),
    "scene": Scale((), STYLES),
}
_MINI = {
    # half a window from one to the next: half of the paper's overlap, a third of the time
    "panorama": Scale((), (), 1, rendered_size=(256, 128), short_side=128, stride=16),
    "video": Scale((), (), 1, rendered_size=(128, 128), short_side=128, num_frames=8),
    "scene": Scale((), (), 1),
}
_COLUMNS = {"panorama": PANORAMA_COLUMNS, "video": VIDEO_COLUMNS}


def experiment(
    domain: DomainName,
    name: str,
    title: str,
    where: str,
    rows: Sequence[Variant],
    prompts: tuple[Prompt, ...] = (SNOW, SKETCH, TINT),
    *,
    full: Mapping[str, Any] | None = None,
    mini: Mapping[str, Any] | None = None,
    **more: Any,
) -> Experiment:
    """An experiment with the usual scales and columns of its domain.

    Args:
        domain: what is edited.
        name: without the domain; "" for the domain alone.
        title: one line, without the domain.
        where: it is in the paper.
        rows: of both scales.
        prompts: instructions of the small scale.
        full: fields of Scale that differ at the paper's scale.
        mini: fields of Scale that differ at the small scale.
        more: fields of Experiment.
    """
    return Experiment(
        name=f"{domain}-{name}" if name else domain,
        title=f"{domain.title()}s: {title}",
        paper=where,
        domain=domain,
        full=replace(_FULL[domain], **{"variants": tuple(rows), **(full or {})}),
        mini=replace(_MINI[domain], **{"variants": tuple(rows), "prompts": prompts, **(mini or {})}),
        **{"columns": _COLUMNS.get(domain), "plot": _AGREEMENT, **more},
    )


EXPERIMENTS = (
    experiment(
        "panorama",
        "tradeoff",
        "keeping the source against following the instruction",
        "figure 5",
        _guided(_COMPARED, _GUIDANCE),
        (SNOW, SKETCH),
        mini={"variants": _guided(_COMPARED, _MINI_GUIDANCE), "num_inputs": 2},
        plot=(SIMILARITY, DIRECTIONAL),
        tradeoff=True,
        note="Figure 5 has no numbers: the paper states the best trade-off for csd, and for ip2p-overlap the "
        "highest image similarity with a low directional similarity.",
    ),
    experiment(
        "panorama",
        "ablation",
        "csd without SVGD, and with random noise as baseline",
        "figure 7",
        _guided([variant.method for variant in ABLATION], _GUIDANCE),
        mini={"variants": _ABLATED, "num_inputs": 2},
        plot=(SIMILARITY, DIRECTIONAL),
        tradeoff=True,
        note="Figure 7 has no numbers: the paper states that both lose image similarity, and sds directional "
        f"similarity too. {_SCALED}",
    ),
    experiment(
        "panorama",
        "batch",
        "windows that exchange gradients in one step (B)",
        "table 10",
        _csd_by("batch_size", (4, 8, 12), "B = {}"),
        full={"num_steps": 200},
        mini={"num_steps": 20, "rendered_size": (384, 128)},
        columns=(Column("iterations", "iterations / s", "higher", 2), *PANORAMA_COLUMNS),
        published=paper.PANORAMA_BATCH,
        note=paper.PANORAMA_BATCH_NOTE,
    ),
    experiment(
        "panorama",
        "time",
        "time at two sizes",
        "table 8",
        _sizes((1920, 640), (3968, 4352)),
        (SNOW,),
        full={"prompts": STYLES[:1], "num_inputs": 1},
        mini={
            "variants": _sizes((256, 128), (512, 256)),
            "rendered_size": (512, 256),
            "short_side": 256,
            "stride": None,
        },
        columns=COST_COLUMNS,
        plot=("seconds", "evaluations"),
        published=paper.PANORAMA_TIME,
        note="Small is 1920 x 640 in the paper and 256 x 128 in miniature; large 3968 x 4352 and 512 x 256.",
        measured=False,
    ),
    experiment(
        "panorama",
        "kernel",
        "wider kernels and shared noise",
        BEYOND,
        kernels(),
        (SNOW, TINT, Prompt.mini("single colour")),
        note=_WIDER,
    ),
    experiment(
        "panorama", "speed", "does what makes an edit faster change it", BEYOND, _SPEED_UPS, note=_POOLS
    ),
    experiment(
        "panorama",
        "borders",
        "pixels near the border of the image",
        BEYOND,
        _csd_by("borders", ("margin", "reweight", "none")),
        (SNOW,),
        mini={"rendered_size": (320, 256), "short_side": 256},  # more windows than move in one step
        columns=(
            PSNR_COLUMN,
            Column("psnr_corners", "PSNR of the corners, dB", "higher", 2),
            SIMILARITY_COLUMN,
            DIRECTIONAL_COLUMN,
            SEAM_COLUMN,
            *COST_COLUMNS,
        ),
        plot=("psnr_true", "psnr_corners", "evaluations"),
        note="margin: windows reach onto a mirrored margin; reweight: longer steps where windows are few; "
        "none: as in the published code. --stride sets how few they are.",
    ),
    experiment(
        "video",
        "",
        "against other methods, and with fewer steps",
        "tables 1 and 9",
        (Variant("csd"), _fewer(50, 2.0), _FRAMEWISE),
        full={"num_steps": 500},
        mini={"variants": (Variant("csd"), _fewer(8, 1.5), _FRAMEWISE), "num_inputs": 2},
        plot=_VIDEO_PLOT,
        published=paper.VIDEO,
        note="FateZero and Pix2Video are programs of others; only the paper's numbers are shown.",
    ),
    experiment(
        "video",
        "ablation",
        "csd without SVGD, and with random noise as baseline",
        "table 3",
        _ABLATED,
        (SNOW, TINT),
        mini={"num_inputs": 2},
        plot=_VIDEO_PLOT,
        published=paper.VIDEO_ABLATION,
        note=_SCALED,
    ),
    experiment(
        "video",
        "kernel",
        "wider kernels and shared noise",
        BEYOND,
        kernels(),
        (SNOW, TINT),
        plot=("hue_spread", "psnr_true", CONSISTENCY, DIRECTIONAL),
        note=_WIDER,
    ),
    experiment(
        "video",
        "t-range",
        "csd and random noise as baseline, at other timesteps",
        BEYOND,
        _T_RANGES,
        (SNOW, TINT),
        columns=(SIMILARITY_COLUMN, *VIDEO_COLUMNS),
        note="The noisier the timesteps, the less the editor sees, and the more edits are possible.",
    ),
    experiment(
        "video",
        "speed",
        "does what makes an edit faster change it",
        BEYOND,
        _SPEED_UPS,
        columns=(SIMILARITY_COLUMN, *VIDEO_COLUMNS),
        note=_POOLS,
    ),
    experiment(
        "video",
        "detail",
        "how an edit comes back to the size of the frames",
        BEYOND,
        _csd_by("detail", ("none", "residual", "guided")),
        full={"rendered_size": (1024, 1024)},
        mini={"rendered_size": (256, 256), "short_side": 256},
        columns=(
            PSNR_COLUMN,
            WARP_COLUMN,
            Column("source_warp_error", "warp error of the source", "", 5),
            *VIDEO_COLUMNS[:3],
            SECONDS_COLUMN,
        ),
        plot=("psnr_true", "warp_error"),
        note="none: the decoded edit enlarged; residual: the decoded change added to the frame; guided: the "
        "change fitted as an affine map of the source's colours.",
    ),
)
