"""Tables say what they were made from, and are used together only where they belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.hooks._pipelines import PREFIX, TISSUES, without_namespace
from tissue_crosstalk.hooks.run_record import RunRecord
from tissue_crosstalk.provenance import can_say, check_together, description, said_of, say

logger = logging.getLogger(__name__)


class Provenance:
    """Writes into tables what they were made from, and refuses to work on what does not belong together.

    See :mod:`~tissue_crosstalk.provenance`. Parameters are those of a table's own stage, so that it is the same
    whether stages run together or one by one; what came before is known by what the attention says of itself.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._pipeline = Pipeline([])
        self._attention: Mapping[str, Any] = {}
        self._warned: set[str] = set()

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Begin anew."""
        self._pipeline, self._attention, self._warned = pipeline, {}, set()

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Refuse tables of different runs, and say where the tissue has changed since."""
        made = {name: said for name, value in inputs.items() if (said := said_of(value)).get("run")}
        check_together(made)
        self._attention = next((said for said in made.values() if "keys" in said), self._attention)
        if made and any(without_namespace(name) in TISSUES for name in node.inputs):
            self._compare_tissue(self._attention.get("tissue_sha256"))

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
        return description(known, own, self._attention, self._record.hashes())

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
