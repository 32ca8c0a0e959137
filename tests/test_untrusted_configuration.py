"""The files in conf hold values: no tag of YAML makes an object, and nothing that they can call runs a text as code."""

from __future__ import annotations

import contextlib
import inspect
import shutil
from pathlib import Path

import pytest
import yaml
from kedro.config import OmegaConfigLoader

from sessions import PROJECT
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.resolvers import RESOLVERS
from tissue_crosstalk.settings import CONFIG_LOADER_ARGS


def loader(folder: Path, parameters: str) -> OmegaConfigLoader:
    (folder / "base").mkdir(parents=True)
    (folder / "local").mkdir()
    shutil.copy(PROJECT / "conf" / "base" / "globals.yml", folder / "base")
    (folder / "base" / "parameters.yml").write_text(parameters)
    return OmegaConfigLoader(str(folder), **CONFIG_LOADER_ARGS)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]",
        "!!python/name:os.system",
        "!!python/module:this",
    ],
)
def test_no_tag_makes_an_object(value: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(Exception, match="could not determine a constructor for the tag|Invalid YAML"):
        loader(tmp_path / "conf", f"seed: {value.format(marker=marker)}\n")["parameters"]
    assert not marker.exists()


def test_those_tags_would_make_one(tmp_path: Path) -> None:
    yaml.unsafe_load(f"!!python/object/apply:os.system ['touch {tmp_path / 'marker'}']")
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", RESOLVERS)
def test_no_resolver_runs_a_text(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    with contextlib.suppress(ParameterError):  # a name that no study can have
        RESOLVERS[name](*[code] * len(inspect.signature(RESOLVERS[name]).parameters))
    assert not marker.exists()
    eval(code)  # it would
    assert marker.exists()
