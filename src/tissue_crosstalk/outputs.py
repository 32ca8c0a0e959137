"""Names what a study's run wrote, and how to look at it: ``python -m tissue_crosstalk.outputs <study>``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

PROJECT_PATH = Path(__file__).resolve().parents[2]
DATA = "data"
KINDS = {
    "08_reporting": "figures, tables and the annotated tissue",
    "07_model_output": "attention, neighbors and hubs (parquet)",
    "06_models": "the model and its training history",
    "05_model_input": "the prepared tissue",
    "01_raw": "the simulated tissue and what was planted in it",
}


def describe_outputs(study: str, project: Path = PROJECT_PATH) -> str:
    """Return what lies under a study's name, one thing per line, and how to look at it."""
    lines = [f"Study {study!r} wrote:"]
    for folder, kind in KINDS.items():
        path = project / DATA / folder / study
        if path.is_dir():
            lines.append(f"  {path.relative_to(project)}/  {kind}")
            lines += [f"    {_described(entry)}" for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    if len(lines) == 1:
        return f"There are no outputs of study {study!r} in {project / DATA}."
    lines += _recovery(project / DATA / "08_reporting" / study / "recovery.json")
    lines += [
        "Look at it:",
        f"  figures   open {DATA}/08_reporting/{study}/attention_summaries, hub_map.png, hub_composition.png",
        "  runs      make ui   (MLflow: parameters, losses, metrics, figures of every run)",
        "  pipeline  make viz  (Kedro-Viz)",
        f"  python    AttentionModule.load({f'{DATA}/07_model_output/{study}'!r})",
    ]
    return "\n".join(lines)


def _described(entry: Path) -> str:
    if not entry.is_dir():
        return entry.name
    files = [file for file in entry.rglob("*") if file.is_file()]
    return f"{entry.name}/  ({len(files)} file{'' if len(files) == 1 else 's'})"


def _recovery(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = ["How well attention ranks the planted edges (average precision; chance is the base rate):"]
    for flavor, measured in json.loads(file.read_text()).items():
        precision, base = measured["average_precision"], measured["base_rate"]
        lines.append(f"  {flavor:15} {precision:.3f}, {precision / base:.0f} times the base rate of {base:.3f}")
    return lines


def main() -> None:
    """Print the outputs of the study named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    sys.stdout.write(describe_outputs(parser.parse_args().study) + "\n")


if __name__ == "__main__":
    main()
