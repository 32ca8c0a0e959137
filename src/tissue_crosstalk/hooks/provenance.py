"""Tables say what they were made from, and are used together only where they belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.datasets import ModelDataset, ParquetShardsDataset
from tissue_crosstalk.hooks._pipelines import PREFIX, TISSUES, without_namespace
from tissue_crosstalk.hooks.run_record import MODELS, RunRecord
from tissue_crosstalk.params import DEMO, given_fields
from tissue_crosstalk.provenance import (
    HUB_SELECTION,
    MODEL_INPUT,
    can_say,
    check_asked,
    check_model,
    check_reading,
    check_together,
    description,
    made_with,
    reading_of,
    said_of,
    say,
)

logger = logging.getLogger(__name__)


class Provenance:
    """Writes into tables what they were made from, and refuses to work on what does not belong together.

    See :mod:`~tissue_crosstalk.provenance`. Parameters are those of a table's own stage, so that it is the same
    whether stages run together or one by one; what came before is known by what the attention says of itself.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._pipeline = Pipeline([])
        # Of the user's study, and of the demo's: both may be in one run.
        self._attention: dict[bool, Mapping[str, Any]] = {}
        self._model: dict[bool, Any] = {}
        self._have_model_checked: set[bool] = set()
        self._reading: dict[bool, Mapping[str, Any]] = {}
        self._asked: Mapping[str, Any] = {}
        self._warned: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Note how the user says that the tissue is read, and what else a run-time parameter says."""
        self._reading, self._asked = {}, {}
        given = context._runtime_params or {}
        with suppress(MissingConfigException):
            parameters = context.config_loader["parameters"]
            self._reading = {
                False: parameters.get("tissue_reading") or {},
                True: _reading_of_demo(parameters, given),
            }
            self._asked = given_fields(given, parameters)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Begin anew, and refuse what is at hand before hours are spent on it."""
        self._pipeline, self._attention, self._model = pipeline, {}, {}
        self._have_model_checked, self._warned = set(), set()
        names = sorted(pipeline.inputs())
        attention, models = (
            [name for name in names if isinstance(catalog.get(name), kind)]
            for kind in (ParquetShardsDataset, ModelDataset)
        )
        others = [name for name in names if without_namespace(name) in (MODEL_INPUT, HUB_SELECTION)]
        for name in [*attention, *(models if attention else []), *others]:
            with suppress(DatasetError):  # of one that is missing or damaged, the node that loads it tells
                value, is_demo = catalog.load(name), name.split(".")[0] == DEMO
                self._check({name: value}, is_demo=is_demo)
                check_asked(made_with(value, without_namespace(name)), self._asked, DEMO if is_demo else None)

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Refuse tables of different runs, keys or models, and say where the tissue has changed since."""
        made = {name: said for name, value in inputs.items() if (said := said_of(value)).get("run")}
        check_together(made)
        is_demo = _is_of_demo(node)
        self._check(inputs, is_demo=is_demo)
        if made and any(without_namespace(name) in TISSUES for name in node.inputs):
            self._compare_tissue(self._attention.get(is_demo, {}).get("tissue_sha256"))

    def _check(self, values: Mapping[str, Any], *, is_demo: bool) -> None:
        """Refuse attention that was extracted with other keys or by another model than those of this run."""
        for name, value in values.items():
            if without_namespace(name) in MODELS:
                self._model[is_demo] = value
                continue
            if "keys" in (said := said_of(value)):
                self._attention[is_demo] = said
            kind, again = without_namespace(name), DEMO if is_demo else "attention"
            check_reading(reading_of(value, kind), self._reading.get(is_demo, {}), kind, again)
        if is_demo in self._attention and is_demo in self._model and is_demo not in self._have_model_checked:
            check_model(self._attention[is_demo], self._model[is_demo])
            self._have_model_checked.add(is_demo)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Add to a table what it was made from."""
        if can_say(data, without_namespace(dataset_name)):
            say(data, self._of(dataset_name))

    def _of(self, dataset: str) -> dict[str, Any]:
        (maker,) = self._pipeline.only_nodes_with_outputs(dataset).nodes
        upstream = self._pipeline.to_outputs(dataset).nodes
        stage = Pipeline([node for node in upstream if node.namespace == maker.namespace])
        blocks = tuple(f"{name.removeprefix(PREFIX)}." for name in stage.inputs() if name.startswith(PREFIX))
        known = self._record.known()
        own = {name: value for name, value in known["parameters"].items() if f"{name}.".startswith(blocks)}
        return description(known, own, self._attention.get(_is_of_demo(maker), {}), self._record.hashes())

    def _compare_tissue(self, sha256: str | None) -> None:
        now = self._record.hashes().get("tissue")
        if sha256 and now and sha256 != now and now not in self._warned:
            self._warned.add(now)
            logger.warning(
                "the file of the tissue has changed since its attention was extracted (SHA-256 %s, now %s). If its "
                "expression is not the same, run the extraction again.",
                sha256[:12],
                now[:12],
            )


def _reading_of_demo(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run-time parameter says of the reading of the demo's tissue, whose keys nobody chooses."""
    reading, own = (_block(_block(of, DEMO), "tissue_reading") for of in (parameters, given))
    return {name: reading.get(name) for name in ("n_neighbors",) if name in given or name in own}


def _block(parameters: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = parameters.get(name)
    return found if isinstance(found, Mapping) else {}


def _is_of_demo(node: Node) -> bool:
    return (node.namespace or "").split(".")[0] == DEMO
