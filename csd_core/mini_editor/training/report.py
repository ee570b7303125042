"""table.json as tables to read, on the terminal and in Markdown, and the contact sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from torch import Tensor

from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.mini_editor.training.targets import targets

Row = Sequence[str]


@dataclass(frozen=True)
class Figures:
    """One table."""

    title: str
    header: Row
    rows: Sequence[Row]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"

    def rich(self) -> Table:
        view = Table(*self.header, title=self.title, title_justify="left")
        for row in self.rows:
            view.add_row(*row)
        return view


def number(value: float | None, places: int = 1, sign: bool = False) -> str:
    """A figure, or a dash where it could not be measured."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{places}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def figures(whole: Mapping[str, Any]) -> list[Figures]:
    """All tables for which `whole`, the contents of table.json, has the section."""
    makers = {
        "table": (_vae, _table, _kinds),
        "choice": (_choice,),
        "language": (_wordings, _shares, _unknown, _negative),
        "csd": (_csd, _csd_kinds),
        "sizes": (_sizes, _cost),
    }
    tables = [make(whole[name]) for name, several in makers.items() if name in whole for make in several]
    rows = [(t.name, t.value, t.asked, "yes" if t.met else "no") for t in targets(whole)]
    last = [Figures("Targets", ("what", "measured", "asked for", "met"), rows)] if rows else []
    return [*tables, *last]


_SCORES = ("photos", "source", "result", "gain", "edges", "structure", "outside")


def _score_cells(score: Mapping[str, Any]) -> Row:
    return (
        number(score["images"], 0),
        number(score["source"]),
        number(score["result"]),
        number(score["gain"], sign=True),
        number(score["edges"], 2),
        number(score["structure"], 2),
        number(score["outside"]),
    )


def _vae(part: Mapping[str, Any]) -> Figures:
    rows = [("mean", part["vae"]["mean"]), *part["vae"]["photographs"].items()]
    return Figures("VAE, dB", ("photograph", "PSNR"), [(name, number(db)) for name, db in rows])


def _table(part: Mapping[str, Any]) -> Figures:
    rows = [(n, INSTRUCTIONS[n].kind, *_score_cells(score)) for n, score in part["instructions"].items()]
    return Figures("Full sampling, dB to the ground truth", ("instruction", "kind", *_SCORES), rows)


def _kinds(part: Mapping[str, Any]) -> Figures:
    rows = [(kind, *_score_cells(score)) for kind, score in part["kinds"].items()]
    return Figures("Full sampling, means by kind", ("kind", *_SCORES), rows)


def _choice(part: Mapping[str, Any]) -> Figures:
    rows = []
    for name, photographs in part["instructions"].items():
        for photograph, row in photographs.items():
            counts = ", ".join(f"{outcome} {count}" for outcome, count in row["outcomes"].items())
            rows.append((name, photograph, counts, percent(row["largest_share"]), number(row["result"])))
    header = ("instruction", "photograph", "draws nearest to", "largest share", "PSNR to the nearest")
    return Figures("Choices", header, rows)


def _wordings(part: Mapping[str, Any]) -> Figures:
    rows = []
    for name, row in part["instructions"].items():
        gains = (number(row["gain"], sign=True), number(row["unseen"]["gain"], sign=True))
        shares = (percent(row[way]["share"]) for way in ("unseen", "capitals", "reversed"))
        rows.append((name, row["kind"], *gains, *shares))
    header = ("instruction", "kind", "canonical", "unseen", "share", "share, capitals", "share, reversed")
    return Figures("Other words: gains, dB", header, rows)


def _shares(part: Mapping[str, Any]) -> Figures:
    ways = part["shares"]
    fields = list(ways["unseen"])
    rows = []
    for way, shares in ways.items():
        cells = [number(shares[f]) if f == "to_canonical" else percent(shares[f]) for f in fields]
        rows.append((way, *cells))
    names = {"mean": "mean of instructions", "to_canonical": "PSNR to canonical"}
    return Figures("Other words: share of the gain", ("way", *(str(names.get(f, f)) for f in fields)), rows)


def _unknown(part: Mapping[str, Any]) -> Figures:
    fields = ("result_to_source", "vae_to_source", "result_to_vae")
    rows = [
        (prompt, *(number(row[field]) for field in fields), "yes" if row["warns"] else "no")
        for prompt, row in part["unknown"].items()
    ]
    header = ("prompt", "result to source", "VAE to source", "result to VAE", "warns")
    return Figures("Unknown prompts, dB", header, rows)


def _negative(part: Mapping[str, Any]) -> Figures:
    rows = [
        (
            f"{row['prompt']}, not {row['negative_prompt']}",
            *(number(row[field]) for field in ("avoided_without", "avoided_with")),
            number(row["change"], sign=True),
            *(number(row[field]) for field in ("asked_without", "asked_with")),
        )
        for row in part["negative"]
    ]
    header = ("prompts", "to what is avoided", "with negative", "change", "to what is asked", "with negative")
    return Figures("Negative prompts, dB", header, rows)


def _csd(part: Mapping[str, Any]) -> Figures:
    rows = [
        (name, row["kind"], way, *_score_cells(row[way]))
        for name, row in part["instructions"].items()
        for way in ("sampled", "csd")
    ]
    return Figures("CSD-Edit of single images, dB", ("instruction", "kind", "by", *_SCORES), rows)


def _csd_kinds(part: Mapping[str, Any]) -> Figures:
    ways = part["kinds"]
    rows = [(kind, way, *_score_cells(ways[way][kind])) for kind in ways["csd"] for way in ("sampled", "csd")]
    return Figures("CSD-Edit of single images, means by kind", ("kind", "by", *_SCORES), rows)


def _sizes(part: Mapping[str, Any]) -> Figures:
    names = list(next(iter(part["sizes"].values()))["gains"])
    rows = [
        (size, row["photograph"], *(number(row["gains"][name], sign=True) for name in names))
        for size, row in part["sizes"].items()
    ]
    return Figures("Other sizes: gains, dB", ("height x width", "photograph", *names), rows)


def _cost(part: Mapping[str, Any]) -> Figures:
    rows = [
        ("one UNet evaluation at native size, GFLOP", number(part["unet_gflop"], 2)),
        ("weights on disk, MB", number(part["megabytes"])),
        *((f"parameters of {n}, million", number(p / 1e6, 2)) for n, p in part["parameters"].items()),
    ]
    return Figures("Cost", ("what", "measured"), rows)


def print_report(whole: Mapping[str, Any]) -> None:
    """All tables on the terminal; in a file as wide as the widest needs."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for table in figures(whole):
        console.print(table.rich())


def markdown_report(whole: Mapping[str, Any]) -> str:
    """All tables, to be pasted in the model card."""
    return "\n".join(table.markdown() for table in figures(whole))


def save_sheet(path: Path, rows: Sequence[Tensor], labels: Sequence[str] = ()) -> None:
    """Rows of images (n, 3, H, W) in [0, 1] as one PNG, each with its label, if any, at the left."""
    sheet = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    picture = Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    if labels:
        picture = _labelled(picture, labels)
    unfinished = path.with_name(f"{path.name}.part")
    picture.save(unfinished, format="PNG")
    unfinished.replace(path)


def _labelled(picture: Image.Image, labels: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(size=14)
    margin = round(max(font.getlength(label) for label in labels)) + 16
    whole = Image.new("RGB", (margin + picture.width, picture.height), "white")
    whole.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(whole)
    for k, label in enumerate(labels):
        middle = (k + 0.5) * picture.height / len(labels)
        draw.text((8, middle), label, fill="black", font=font, anchor="lm")
    return whole
