"""Draws the stages, and the datasets between them, as docs/images/flow.svg: ``python docs/tools/flow.py``.

What it draws is asked of the pipelines, so that the picture cannot say what they do not do.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from kedro.pipeline import Pipeline

from tissue_crosstalk.pipeline_registry import register_pipelines

PICTURE = Path(__file__).resolve().parents[1] / "images" / "flow.svg"
STAGES = (
    "simulation", "training", "extraction", "flavoring", "hubs", "reporting", "recovery",
    "ablation", "distances", "variance", "contributions",
)  # fmt: skip

WIDTH, GAP, MARGIN = 176, 28, 12
PER_ROW = 4
HEAD, LINE, PAD = 30, 17, 10
DRAWN_ALONE = 6
"""Outputs of a stage that are named; of more, only how many there are."""

STYLE = """
  text { font: 12px sans-serif; fill: #1d2733; }
  .stage { font-weight: bold; font-size: 14px; fill: #ffffff; }
  .note { fill: #5a6775; font-size: 11px; }
  .box { fill: #ffffff; stroke: #37536b; }
  .head { fill: #37536b; }
  .way { stroke: #37536b; fill: none; stroke-width: 1.5; }
"""


def between(pipelines: dict[str, Pipeline]) -> dict[str, tuple[list[str], list[str]]]:
    """Return what each stage reads of other stages (or of the user), and what it leaves for others, by its name."""
    reads = {stage: _data(pipelines[stage].inputs()) for stage in STAGES}
    leaves = {stage: _data(pipelines[stage].all_outputs()) for stage in STAGES}
    return {stage: (sorted(reads[stage]), sorted(leaves[stage])) for stage in STAGES}


def _data(names: set[str]) -> set[str]:
    """Return datasets that hold data, in the names that the stages share."""
    aliases = {"existing_model": "model", "simulated_tissue": "tissue"}
    others = ("params:", "parameters")
    kept = {aliases.get(name, name) for name in names if not name.startswith(others)}
    return {name for name in kept if not name.endswith(("_workspace", "_metrics", "_checkpoint", "run_record"))}


def draw(stages: dict[str, tuple[list[str], list[str]]]) -> str:
    """Return the picture: a box per stage with what it reads, and what it leaves."""
    contents = {stage: _lines(stage, stages) for stage in stages}
    names = list(contents)
    parts: list[str] = []
    top = MARGIN
    for first in range(0, len(names), PER_ROW):
        row = names[first : first + PER_ROW]
        height = HEAD + PAD + LINE * max(len(contents[stage]) for stage in row)
        for column, stage in enumerate(row):
            x = MARGIN + column * (WIDTH + GAP)
            parts += _box(stage, contents[stage], x, top, height)
            if stage != names[-1]:
                parts.append(f'<path class="way" d="M{x + WIDTH + 3} {top + HEAD // 2}h{GAP - 8}m-6 -5l6 5l-6 5"/>')
        top += height + GAP
    width, height = 2 * MARGIN + PER_ROW * (WIDTH + GAP), top - GAP + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="Stages and the data between them">\n<style>{STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _lines(stage: str, stages: dict[str, tuple[list[str], list[str]]]) -> list[tuple[str, str]]:
    """Return the lines of a stage's box: a kind, and a text."""
    reads, leaves = stages[stage]
    wanted = {name for other, (read, _) in stages.items() if other != stage for name in read}
    named = [name for name in leaves if name in wanted][:DRAWN_ALONE]
    return [
        *_listed("reads", reads[:DRAWN_ALONE], len(reads)),
        *_listed("leaves", named, len(leaves)),
    ]


def _listed(what: str, named: list[str], n_all: int) -> list[tuple[str, str]]:
    hidden = n_all - len(named)
    more = [("name", f"{hidden} more" if named else f"{hidden} figures and tables")] if hidden else []
    return [("note", what), *(("name", name) for name in named), *more] if n_all else []


def _box(stage: str, lines: list[tuple[str, str]], x: int, top: int, height: int) -> list[str]:
    parts = [
        f'<rect class="box" x="{x}" y="{top}" width="{WIDTH}" height="{height}" rx="4"/>',
        f'<path class="head" d="M{x} {top + HEAD}v-{HEAD - 4}q0-4 4-4h{WIDTH - 8}q4 0 4 4v{HEAD - 4}z"/>',
        f'<text class="stage" x="{x + PAD}" y="{top + 20}">{escape(stage)}</text>',
    ]
    for row, (kind, text) in enumerate(lines):
        indent = 0 if kind == "note" else 8
        y = top + HEAD + LINE * (row + 1)
        parts.append(f'<text class="{kind}" x="{x + PAD + indent}" y="{y}">{escape(text)}</text>')
    return parts


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(between(register_pipelines())), encoding="utf-8")


if __name__ == "__main__":
    main()
