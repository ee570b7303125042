"""What is asked of the mini editor, against table.json."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from csd_core.mini_editor.edits import INSTRUCTIONS

VAE_DB = 29.0
GAIN_DB = {"light": 7.0, "style": 4.0, "local": 3.0}
"""Mean gain of each kind."""
LIGHT_LEAST_GAIN_DB = 3.0
"""Gain of every instruction of kind light, but for those whose source is near the truth already:"""
LIGHT_NEAR_DB, LIGHT_RESULT_DB = 15.0, 20.0
"""... of a source at 15 dB or more a result at 20 dB is enough."""
STYLE_EDGES = 0.8
LOCAL_OUTSIDE_DB = 24.0
CHOICE_LARGEST_SHARE = 0.6
CHOICE_DB = 15.0
UNSEEN_SHARE = 0.8


@dataclass(frozen=True)
class Target:
    """One figure against what is asked of it."""

    name: str
    value: str
    asked: str
    met: bool


def targets(whole: Mapping[str, Any]) -> list[Target]:
    """Those that the sections in `whole`, the contents of table.json, speak of."""
    checks = {"table": _table, "choice": _choice, "language": _language}
    return [target for name, check in checks.items() if name in whole for target in check(whole[name])]


def _at_least(name: str, value: float | None, bound: float, unit: str = " dB") -> Target:
    """An unmeasured figure (None) does not meet anything."""
    shown = "not measured" if value is None else f"{value:.2f}{unit}"
    return Target(name, shown, f">= {bound:g}{unit}", value is not None and value >= bound)


def _table(part: Mapping[str, Any]) -> Iterator[Target]:
    kinds = part["kinds"]
    yield _at_least("VAE reconstruction", part["vae"]["mean"], VAE_DB)
    for kind, bound in GAIN_DB.items():
        if kind in kinds:
            yield _at_least(f"mean gain, {kind}", kinds[kind]["gain"], bound)
    if "light" in kinds:
        yield _every_light(part["instructions"])
    if "style" in kinds:
        yield _at_least("edges as in the ground truth, style", kinds["style"]["edges"], STYLE_EDGES, "")
    if "local" in kinds:
        yield _at_least("outside of local edits", kinds["local"]["outside"], LOCAL_OUTSIDE_DB)


def _every_light(scores: Mapping[str, Any]) -> Target:
    def enough(score: Mapping[str, float]) -> bool:
        near = score["source"] >= LIGHT_NEAR_DB and score["result"] >= LIGHT_RESULT_DB
        return score["gain"] >= LIGHT_LEAST_GAIN_DB or near

    light = {name: score for name, score in scores.items() if INSTRUCTIONS[name].kind == "light"}
    missed = [name for name, score in light.items() if not enough(score)]
    return Target(
        "gain of every light edit",
        f"missed by {', '.join(missed)}" if missed else f"{min(s['gain'] for s in light.values()):.2f} dB",
        f">= {LIGHT_LEAST_GAIN_DB:g} dB; from {LIGHT_NEAR_DB:g} dB a result of {LIGHT_RESULT_DB:g} dB",
        not missed,
    )


def _choice(part: Mapping[str, Any]) -> Iterator[Target]:
    for name, photographs in part["instructions"].items():
        rows = photographs.values()
        fewest = min(count for row in rows for count in row["outcomes"].values())
        largest = max(row["largest_share"] for row in rows)
        yield Target(f"{name}: draws of the rarest outcome", str(fewest), ">= 1", fewest >= 1)
        yield Target(
            f"{name}: largest share of an outcome",
            f"{100 * largest:.0f} %",
            f"<= {100 * CHOICE_LARGEST_SHARE:.0f} %",
            largest <= CHOICE_LARGEST_SHARE,
        )
        yield _at_least(f"{name}: PSNR to the nearest outcome", min(row["result"] for row in rows), CHOICE_DB)


def _language(part: Mapping[str, Any]) -> Iterator[Target]:
    yield _at_least("share of the gain in unseen wordings", part["shares"]["unseen"]["all"], UNSEEN_SHARE, "")
    unknown = part["unknown"].values()
    margin = min(row["result_to_vae"] - row["vae_to_source"] for row in unknown)
    changes = "unknown prompts: nearer to the VAE's reconstruction than that is to the source, by at least"
    yield Target(changes, f"{margin:.2f} dB", "> 0 dB", margin > 0)
    warned = sum(row["warns"] for row in unknown)
    yield Target("unknown prompts that warn", str(warned), str(len(unknown)), warned == len(unknown))
    if part["negative"]:
        change = max(row["change"] for row in part["negative"])
        yield Target(
            "negative prompts: largest change towards them", f"{change:+.2f} dB", "< 0 dB", change < 0
        )
