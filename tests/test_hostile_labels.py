"""Labels that could lead elsewhere: as names of files, studies and metrics, and in messages.

They come from data and from the command line. Each becomes a name of its own in the folder where it belongs, or is
refused.
"""

from __future__ import annotations

import html
import logging
import re
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project
from kedro.logging import RichHandler
from mlflow.utils.validation import _validate_metric_name
from rich.console import Console

from sessions import PROJECT, run_project
from tissue_crosstalk.cli import cli
from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.errors import CrosstalkError, ParameterError, TissueError, listing, printable
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.plots.style import cell_type_palette
from tissue_crosstalk.core.summary import plan_summaries
from tissue_crosstalk.core.tissue import prepare_tissue
from tissue_crosstalk.datasets import FiguresDataset
from tissue_crosstalk.logs import write_literally
from tissue_crosstalk.outputs import describe_outputs, main
from tissue_crosstalk.params import FlavoringParams, HubsParams, demo_study, user_study
from tissue_crosstalk.pipelines.metrics import metric_names
from tissue_crosstalk.sweep import expand, one_line

LABELS = (
    "../x", "/etc/x", "a/b", "a\\b", "a b", "A b", "a_b", "..", ".", "...", "", " ", "CON", "con", "nul.txt", "a\0b",
    "\\0", "x" * 300, "x" * 299 + "y", "X" * 300, "é" * 300, "-rf", "--help", ".hidden", "~", "~root", "$HOME", "*",
    "?", "a:b", "C:\\x", "|", "<", "\n", "a\nb", "\t", "\u202ex", "x\u200b", "é", "e\u0301", "ß", "SS", "ﬁ", "fi",
    "日本語", "flavor=vanilla", "vanilla_T", "T_head0", "T", "t", "T-2", "%2e%2e%2f", "a\x1b[31m", "unnamed",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:no installed font has some characters of:UserWarning")
def test_figures_of_any_types_stay_in_their_folder(tmp_path: Path) -> None:
    """One file each, in the folder, also where upper and lower case are the same."""
    bins = DistanceBins(LABELS, 1, 10.0, 5.0)
    plans = plan_summaries({"vanilla": bins}, cell_type_palette(LABELS), sel_head=0)
    assert len({stem.casefold() for stem in plans}) == len(LABELS)
    dataset = FiguresDataset(filepath=str(tmp_path / "study" / "attention_summaries"))
    dataset.save(plans)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {tmp_path / "study" / "attention_summaries"}
    assert {path.stem for path in files} == set(plans)
    for stem in plans:
        assert re.fullmatch(r"vanilla_[^\W_][\w.+-]*_head0|vanilla_[_+-][\w.+-]*_head0", stem), stem
        assert len(stem.encode()) < 130


def test_metrics_of_any_labels_are_taken_by_mlflow_and_stay_apart() -> None:
    names = metric_names([*LABELS, "a_b-2", "a/b-2"])
    assert len(set(names.values())) == len(names) == len(LABELS) + 2
    for name in names.values():
        _validate_metric_name(f"recovery.receivers of a type.{name}.average precision")


REFUSED_STUDIES = (
    "../x", "../../x", "/etc/x", "a/b", "a\\b", "..", ".", "...", "", " ", " a", "a ", "a.", "CON", "con", "nul.txt",
    "COM1.x", "a\0b", "x" * 101, "é" * 51, "-rf", "--help", ".hidden", "~", "$HOME", "*", "a:b", "a\n", "a\nb", "a\tb",
    "\u202ex", "x\u200b", "a\x1b[31m", "study=x", "a,b",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_STUDIES)
def test_studies_that_could_lead_elsewhere_are_refused(name: str) -> None:
    for study in (user_study, demo_study):
        with pytest.raises(ParameterError, match="study must be a plain name") as caught:
            study(name)
        assert f"Got {name!r} instead" in str(caught.value)
    with pytest.raises(ParameterError, match="study must be a plain name"):
        expand({"n_neighbors": (1, 2)}, name + "/" if name in (" a", "a ", "a.", "...") else name + "\n")


@pytest.mark.parametrize("name", ["demo", "Demo", "demo-x", "DEMO-embryo"])
def test_studies_of_the_demo_are_not_the_users(name: str) -> None:
    with pytest.raises(ParameterError, match="these are the studies of --pipelines=demo"):
        user_study(name)


@pytest.mark.parametrize("name", ["embryo", "日本語", "_x", "a..b", "x" * 100, "console", "null", "demonstration"])
def test_other_studies_are_one_folder(name: str, tmp_path: Path) -> None:
    study = user_study(name)
    assert study == name
    (tmp_path / f"{demo_study(name)}-sweep-001").mkdir()
    assert [entry.parent for entry in tmp_path.iterdir()] == [tmp_path]


def test_a_run_refuses_a_study_that_leads_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    with pytest.raises(ParameterError, match=r"study must be a plain name .* Got '../../x' instead"):
        run_project(root, "demo", study="../../x")
    assert not (root / "data").exists()
    assert not list(tmp_path.rglob("x"))


def test_a_sweep_refuses_a_study_that_leads_elsewhere(tmp_path: Path) -> None:
    bootstrap_project(PROJECT)
    given = f"--params=study=../../x,root={tmp_path / 'root'}"
    result = CliRunner().invoke(cli, ["sweep", "--env=test", "--pipelines=demo", "--grid=n_neighbors=2,3", given])
    assert result.exit_code == 1
    assert "Got '../../x' instead" in result.output
    assert not (tmp_path / "root" / "data").exists()


def test_outputs_of_a_study_that_leads_elsewhere_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ParameterError, match="study must be a plain name"):
        describe_outputs("../../x", tmp_path)
    monkeypatch.setattr("sys.argv", ["outputs", "../../x"])
    with pytest.raises(SystemExit):
        main()
    assert "study must be a plain name" in capsys.readouterr().err


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "08_reporting" / "embryo"
    folder.mkdir(parents=True)
    (folder / "a\x1b[31m\nb").touch()
    text = describe_outputs("embryo", tmp_path)
    assert "a\\x1b[31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("flavor", ["../x", "", "vanilla/..", "Vanilla", "vanilla "])
def test_only_flavors_become_partitions(flavor: str) -> None:
    with pytest.raises(ValueError, match="unknown flavor"):
        FlavoringParams(flavors=("vanilla", flavor))
    with pytest.raises(ValueError, match="unknown flavor"):
        HubsParams(flavor=flavor)


# --- Messages


@pytest.mark.parametrize("label", [label for label in LABELS if not label.isprintable()])
def test_messages_do_not_steer_the_terminal(label: str) -> None:
    """Whether a message quotes a name or not."""
    for text in (label, repr(label), listing([label])):
        error = CrosstalkError(f"there is no {text}")
        assert "\x1b" not in str(error)
        assert "\u202e" not in str(error)
        assert one_line(error).isprintable()
    assert printable(label).replace("\n", "").replace("\t", "").isprintable()


def test_what_can_be_seen_stays() -> None:
    for text in ("CD4+ T", "שלום", "日本語", "µm², 5\u202fmm", "two\nlines", "a\tb", "[red]x[/]", "e\u0301"):
        assert printable(text) == text


@pytest.mark.parametrize("name", ["T\x1b[31m", "[red]T[/]", "\u202eT"])
def test_an_unknown_type_is_named_as_text(name: str) -> None:
    adata = AnnData(
        X=np.ones((4, 2), np.float32),
        obs=pd.DataFrame({"cell_type": pd.Categorical([name, "B", "B", "B"])}, index=list("abcd")),
        obsm={"spatial": np.arange(8.0).reshape(4, 2)},
    )
    with pytest.raises(TissueError, match="cell types that the model does not know") as caught:
        prepare_tissue(adata, TissueKeys(), log_normalised=False, cell_types=["A", "B"])
    message = str(caught.value)
    assert message.isprintable()
    assert repr(name) in message


@pytest.mark.parametrize("name", ["[/]", "[red]T[/]", "[/red]", "[link=x]", "\\[x]", ":smile:"])
def test_logs_are_text(name: str) -> None:
    """Kedro's handler reads markup in all messages, and fails where it makes no sense."""
    out = StringIO()
    handler = RichHandler(console=Console(file=out, width=200, force_terminal=True, color_system="truecolor"))
    write_literally(handler)
    write_literally(handler)  # of the next session in this process
    record = logging.makeLogRecord({"msg": "types %s and %s", "args": (name, "a\x1b[31mb\x1b]0;title\x07")})
    if handler.filter(record):
        handler.emit(record)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # colours of numbers and words, which are rich's
    assert f"types {name} and a\\x1b[31mb\\x1b]0;title\\x07" in plain
    assert "\x1b" not in plain


def test_kedros_own_colours_stay() -> None:
    out = StringIO()
    handler = RichHandler(console=Console(file=out, width=200, force_terminal=True, color_system="truecolor"))
    write_literally(handler)
    record = logging.makeLogRecord({"msg": "Saving to %s", "args": ("hubs",), "rich_format": ["red"]})
    if handler.filter(record):
        handler.emit(record)
    assert "Saving to \x1b[31mhubs\x1b[0m" in out.getvalue()


def test_a_session_writes_logs_literally(tmp_path: Path) -> None:
    from kedro.framework.session import KedroSession

    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env="test", runtime_params={"root": str(tmp_path)}) as session:
        session.load_context()
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, RichHandler)]
    assert handlers
    for handler in handlers:
        record = logging.makeLogRecord({"msg": "[/]"})
        assert handler.filter(record)
        assert record.markup is False


# --- A whole run

HOSTILE_TYPES = ("[/]", "$\\frac", "_hidden", "../x", "a\x1b[31m", "<b>x")
HOSTILE_SECTIONS = ("</p>", "s\u202e", "[red]", "$x_")


@pytest.mark.slow
def test_a_run_on_hostile_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It ends, its outputs lie where they belong, and neither terminal nor page takes a name for a command."""
    rng, n_cells = np.random.default_rng(7), 260
    genes = [f"{name}{number}" for number, name in enumerate((*HOSTILE_TYPES, *HOSTILE_SECTIONS, "g\ng", "%s{}"))]
    sections = rng.choice(HOSTILE_SECTIONS, n_cells)
    adata = AnnData(
        X=rng.poisson(2.0, (n_cells, len(genes))).astype(np.float32) + 1,
        obs=pd.DataFrame(
            {
                "kind [red]": pd.Categorical(rng.choice(HOSTILE_TYPES, n_cells)),
                "slide": sections,
                "mouse": [f"[/] {HOSTILE_SECTIONS.index(section) % 2}" for section in sections],
            },
            index=[f"[/]\x1b]0;title\x07<i>{number}" for number in range(n_cells)],
        ),
        var=pd.DataFrame(index=genes),
        obsm={"$x$": rng.uniform(0, 100, (n_cells, 2))},
    )
    file = tmp_path / "in" / "[red]\x1b[31m tissue.h5ad"
    file.parent.mkdir()
    adata.write_h5ad(file)
    root = tmp_path / "root"
    run_project(
        root,
        tissue=str(file),
        labels_key="kind [red]",
        coord_key="$x$",
        section_key="slide",
        n_neighbors=6,
        study="hostile",
        save_svg=True,
        hubs={"condition_key": "mouse"},
    )
    printed = "".join(capfd.readouterr())
    assert "\x1b[31m tissue" not in printed
    assert "\x1b]0;title" not in printed
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "root"]
    assert {entry.name for entry in root.iterdir()} <= {"data", "mlflow.db", "mlruns"}
    assert {study.name for study in (root / "data").glob("0*/*")} == {"hostile"}
    reports = root / "data" / "08_reporting" / "hostile"
    assert len(list((reports / "attention_summaries").glob("vanilla_*.png"))) == len(HOSTILE_TYPES)
    for svg in reports.rglob("*.svg"):
        ET.parse(svg)
    page = (reports / "report.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert "<b>" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    text = html.unescape(page.replace("<wbr>", ""))
    for name in (*HOSTILE_TYPES, *HOSTILE_SECTIONS[:1]):
        assert printable(name) in text, name
