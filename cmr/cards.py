"""What a notebook shows of an object: a small table, everything in it escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def card(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    "A title above a table; the first cell of a row is its name."
    def cells(kind, row): return "".join(f"<{kind}>{escape(str(x))}</{kind}>" for x in row)
    top = [f"<tr>{cells('th', head)}</tr>"] if head else []
    lines = top + [f"<tr>{cells('th', row[:1])}{cells('td', row[1:])}</tr>" for row in rows]
    return f"<div><b>{escape(title)}</b><table>{''.join(lines)}</table></div>"


REPORT = ("", "R@1", "R@5", "R@10", "median", "mean")


def report_rows(report) -> tuple[list[list[str]], str]:
    "Rows under REPORT and R@sum of a `Report`, with intervals where it has them."
    spans: Mapping[str, list[float]] = report.intervals or {}
    def cell(name): return f"{getattr(report, name):.1f}" + (" [{:.1f}, {:.1f}]".format(*spans[name]) if name in spans else "")
    return [[f"{side} retrieval", *(cell(f"{side}_{kind}") for kind in ("r1", "r5", "r10", "median", "mean"))]
            for side in ("text", "image")], cell("rsum")


def report_card(report) -> str:
    "Recalls of a `Report`, with their intervals where it has them."
    rows, rsum = report_rows(report)
    return card(f"R@sum {rsum}", rows, REPORT)


def fragments_card(fragments) -> str:
    "How many rows, how long and how wide, of what kind and where."
    (count, most, width), lengths = fragments.values.shape, fragments.mask.sum(1)
    real = f"{int(lengths.min())} to {int(lengths.max())} of {most}" if count else "none"
    return card("Fragments", [("rows", count), ("real fragments in a row", real), ("width", width),
                              ("kept as", f"{str(fragments.values.dtype).removeprefix('torch.')}, {fragments.values.device}")])


def model_card(model) -> str:
    "A model's arguments, its size, its words and who made its features."
    about = [("made with", ", ".join(f"{key}={value!r}" for key, value in model.config.items())),
             ("parameters", f"{sum(p.numel() for p in model.parameters()):,}")]
    if model.vocabulary is not None: about.append(("vocabulary", f"{len(model.vocabulary):,} words"))
    if model.extractor is not None: about.append(("features", getattr(model.extractor, "name", model.extractor)))
    return card(type(model).__name__, about)


def gallery_card(gallery) -> str:
    "What can be found in a gallery, by which model, and its first names."
    names = ", ".join(gallery.names[:3]) + (", ..." if len(gallery) > 3 else "")
    return card(f"{len(gallery):,} {gallery.side}", [("encoded by", type(gallery.model).__name__), ("names", names[:80]),
                ("cheap vectors", f"{gallery.vectors.shape[1]} wide, " + ("fitted" if gallery.maps else "the mean"))])
