"""The numbers of the paper (arXiv:2307.04787v3), as printed, for the tables of the experiments.

Measured with OpenCLIP ViT-bigG-14 on the paper's own inputs; times on one A100. Figures 5 and 7 are plots
without numbers. The paper does not say what its ± is.
"""

from dataclasses import dataclass

DIRECTIONAL, CONSISTENCY, SIMILARITY = "directional_similarity", "image_consistency", "image_similarity"


@dataclass(frozen=True)
class Printed:
    """A number of the paper."""

    value: float
    error: float | None = None
    """Printed after ±."""

    def __str__(self) -> str:
        return f"{self.value:g}" if self.error is None else f"{self.value:g} ± {self.error:g}"


PaperTable = dict[str, dict[str, Printed]]
"""Name of a variant -> key of a column -> what is printed."""


def _video(
    directional: Printed, consistency: Printed, lpips: Printed, seconds: float | None
) -> dict[str, Printed]:
    row = {DIRECTIONAL: directional, CONSISTENCY: consistency, "lpips": lpips}
    return row if seconds is None else {**row, "seconds": Printed(seconds)}


VIDEO: PaperTable = {
    "fatezero": _video(Printed(0.312, 0.003), Printed(0.948, 0.001), Printed(0.264, 0.002), 192),
    "pix2video": _video(Printed(0.229, 0.001), Printed(0.948, 0.001), Printed(0.282, 0.001), 77),
    "csd, fewer steps": _video(Printed(0.320, 0.001), Printed(0.955, 0.001), Printed(0.243, 0.001), 59),
    "csd": _video(Printed(0.319, 0.002), Printed(0.957, 0.001), Printed(0.235, 0.001), 423),
}
"""Tables 1 and 9; Gen-1 has no row in them. Table 9's second CSD-Edit row is table 1's."""

VIDEO_ABLATION: PaperTable = {
    "csd": _video(Printed(0.320), Printed(0.957), Printed(0.236), None),
    "no-svgd": _video(Printed(0.278), Printed(0.909), Printed(0.372), None),
    "sds": _video(Printed(0.270), Printed(0.884), Printed(0.316), None),
}
"""Table 3."""

SCENE: PaperTable = {
    "instruct-nerf2nerf": _video(Printed(0.177, 0.062), Printed(0.993, 0.002), Printed(0.053, 0.028), None),
    "csd": _video(Printed(0.215, 0.052), Printed(0.994, 0.001), Printed(0.045, 0.012), None),
}
"""Table 2."""

SCENE_ABLATION: PaperTable = {
    "csd": _video(Printed(0.239), Printed(0.995), Printed(0.043), None),
    "no-svgd": _video(Printed(0.186), Printed(0.993), Printed(0.053), None),
    "sds": _video(Printed(0.186), Printed(0.994), Printed(0.053), None),
}
"""Table 4."""

PANORAMA_TIME: PaperTable = {
    "ip2p-overlap, small": {"seconds": Printed(62)},
    "csd, small": {"seconds": Printed(68)},
    "ip2p-overlap, large": {"seconds": Printed(487)},
    "csd, large": {"seconds": Printed(275)},
}
"""Table 8: 1920 x 640 and 3968 x 4352."""

PANORAMA_BATCH: PaperTable = {
    "csd, B = 4": {"iterations": Printed(2.86), SIMILARITY: Printed(0.639), DIRECTIONAL: Printed(0.240)},
    "csd, B = 8": {"iterations": Printed(1.47), SIMILARITY: Printed(0.692), DIRECTIONAL: Printed(0.217)},
    "csd, B = 12": {"iterations": Printed(1.02), SIMILARITY: Printed(0.739), DIRECTIONAL: Printed(0.195)},
}
"""Table 10, its two headings of CLIP exchanged; see PANORAMA_BATCH_NOTE."""

PANORAMA_BATCH_NOTE = (
    "Table 10 prints 0.639, 0.692, 0.739 under directional similarity and 0.240, 0.217, 0.195 under image "
    "similarity. Read as printed, a larger B follows the instruction better and keeps less of the source, "
    "against the paper's text (a larger B dilutes the edit) and the size of its other directional "
    "similarities (0.2 to 0.3). Here the two headings are exchanged: with a larger B image similarity rises "
    "and directional similarity falls. Where our columns do the same, this reading fits; where they do the "
    "opposite, the printed one."
)
