"""Parameters of the stages: typed, checked before anything runs, all of a block's errors together.

Fields, units and defaults are those of the core's settings; conf/base documents each where it is set.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.cluster_settings import ClusterSettings
from tissue_crosstalk.core.devices import AUTO, check_device_name
from tissue_crosstalk.core.errors import ParameterError, did_you_mean
from tissue_crosstalk.core.flavors import FLAVORS, check_flavors
from tissue_crosstalk.core.hubs import HubSettings
from tissue_crosstalk.core.interpretation_settings import DistanceSettings, EffectSettings, VarianceSettings
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.simulation import SimulationSettings
from tissue_crosstalk.core.training_settings import TrainingSettings

_STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


def _split_at(separator: str) -> BeforeValidator:
    """Take text for a list: the command line has commas between parameters already."""
    return BeforeValidator(lambda value: value.split(separator) if isinstance(value, str) else value)


Flavors = Annotated[tuple[str, ...], _split_at("+")]
CellTypes = Annotated[tuple[str, ...], _split_at("|")]  # names of cell types have a + or a comma, such as "CD4+ T"

RUN_TIME_PARAMETERS = (
    "tissue",
    "table",
    "coordinate_system",
    "model",
    "labels_key",
    "coord_key",
    "section_key",
    "radius_key",
    "layer",
    "log_normalised",
    "n_neighbors",
    "seed",
    "study",
    "save_svg",
    "reports",
    "root",
    "parent_run",
)
"""Names that ``kedro run --params=name=value`` takes beside the blocks of conf/base/parameters*.yml.

``parent_run`` is the id of the MLflow run under which this one is nested; ``kedro sweep`` sets it.
"""


@dataclass(frozen=True, config=_STRICT)
class TissueParams:
    """Block ``tissue_reading``: where the tissue holds what. None: as the model has it, or the default.

    The text ``none`` for a section key, a radius key or a layer: none, whatever the model has.
    """

    labels_key: str | None = None
    coord_key: str | None = None
    section_key: str | None = None
    radius_key: str | None = None
    layer: str | None = None
    log_normalised: bool = False
    n_neighbors: int | None = Field(default=None, ge=1)
    pad_neighbors: bool = False

    def keys(self, base: TissueKeys | None = None, *, section_key: str | None = None) -> TissueKeys:
        """Return the keys, those not given from `base`; where neither has a section key, the one given."""
        keys = (base or TissueKeys()).override(
            labels_key=self.labels_key,
            coord_key=self.coord_key,
            section_key=self.section_key,
            radius_key=self.radius_key,
            layer=self.layer,
        )
        return replace(
            keys,
            section_key=None if keys.section_key == terms.UNSET else keys.section_key or section_key,
            radius_key=None if keys.radius_key == terms.UNSET else keys.radius_key,
            layer=None if keys.layer == terms.UNSET else keys.layer,
        )


@dataclass(frozen=True, config=_STRICT)
class SimulationParams(SimulationSettings):
    """Block ``simulation``."""


@dataclass(frozen=True, config=_STRICT)
class TrainingParams(TrainingSettings):
    """Block ``training``: the optimiser's settings, and the network's sizes under ``network``."""

    network: NetworkSettings = NetworkSettings()


@dataclass(frozen=True, config=_STRICT)
class ExtractionParams:
    """Block ``extraction``."""

    cells_per_shard: int = Field(default=20_000, ge=1)
    device: str = AUTO
    allow_tf32: bool = False

    def __post_init__(self) -> None:
        check_device_name(self.device)


@dataclass(frozen=True, config=_STRICT)
class ClusterParams(ClusterSettings):
    """Block ``cluster``."""


@dataclass(frozen=True, config=_STRICT)
class FlavoringParams:
    """Block ``flavoring``."""

    flavors: Flavors = tuple(FLAVORS)

    def __post_init__(self) -> None:
        if not self.flavors:
            raise ParameterError(f"flavors must name at least one of {', '.join(FLAVORS)}. Got none.")
        check_flavors(self.flavors)
        if len(set(self.flavors)) < len(self.flavors):
            raise ParameterError(f"flavors must be named once each. Got {', '.join(self.flavors)}.")


@dataclass(frozen=True, config=_STRICT)
class HubsParams(HubSettings):
    """Block ``hubs``."""

    flavor: str = terms.VANILLA
    n_permutations: int = Field(default=999, ge=1)
    held_out: bool = True
    min_cells: int = Field(default=10, ge=1)
    condition_key: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flavors([self.flavor])


@dataclass(frozen=True, config=_STRICT)
class ReportingParams:
    """Block ``reporting``."""

    max_distance: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    bin_size: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    min_bin_count: int = Field(default=50, ge=1)
    receivers: CellTypes | None = None
    sel_head: int | None = Field(default=None, ge=0)
    plot_histogram: bool = True
    palette: str | tuple[str, ...] | dict[str, str] | None = None
    network_threshold: float | None = Field(default=None, gt=0, le=1)
    distance_unit: str = ""


@dataclass(frozen=True, config=_STRICT)
class AblationParams(EffectSettings):
    """Block ``ablation``: the test of effects, and what else is told of them."""

    by_head: bool = True
    ligand_receptor: str | None = None


@dataclass(frozen=True, config=_STRICT)
class DistancesParams(DistanceSettings):
    """Block ``distances``: length scales, and attention against chance."""

    max_senders: int = Field(default=2_000, ge=1)
    n_permutations: int = Field(default=199, ge=1)
    max_receivers: int = Field(default=2_000, ge=1)


@dataclass(frozen=True, config=_STRICT)
class VarianceParams(VarianceSettings):
    """Block ``variance``."""


@dataclass(frozen=True, config=_STRICT)
class ContributionsParams:
    """Block ``contributions``."""

    most_genes: int = Field(default=40, ge=1)


GridValue = bool | int | float | str


def _default_grid() -> dict[str, tuple[GridValue, ...] | None]:
    return {
        "training.network.n_heads": (4, 8),
        "training.attention_penalty_to": (1e-4, 1e-3),
        "n_neighbors": (30, 50),
    }


@dataclass(frozen=True, config=_STRICT)
class SweepParams:
    """Block ``sweep``: by name of a parameter, the values that ``kedro sweep`` tries. None: it is not swept."""

    grid: dict[str, tuple[GridValue, ...] | None] = Field(default_factory=_default_grid)


LARGEST_SEED = 2**32
_LONGEST_STUDY = 100  # bytes; folders may have 255, and names are put before and behind
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d", re.IGNORECASE)
DEMO = "demo"

STAGE_PARAMS: Mapping[str, type] = MappingProxyType(
    {
        "tissue_reading": TissueParams,
        "simulation": SimulationParams,
        "training": TrainingParams,
        "extraction": ExtractionParams,
        "cluster": ClusterParams,
        "flavoring": FlavoringParams,
        "hubs": HubsParams,
        "reporting": ReportingParams,
        "ablation": AblationParams,
        "distances": DistancesParams,
        "variance": VarianceParams,
        "contributions": ContributionsParams,
        "sweep": SweepParams,
    }
)
"""Block of conf/base/parameters*.yml, and what it must look like."""


def flat_fields(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a block as ``block.field`` with their values, those of blocks in it as well."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from flat_fields(getattr(value, field.name), f"{prefix}.{field.name}")
    else:  # also what the user keys by cell type, whose names MLflow may refuse
        yield prefix, value


def check_blocks(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check all blocks of the parameters, and those of the demo.

    Parameters
    ----------
    parameters
        As the configuration has them, with the run-time parameters.
    given
        The run-time parameters.

    Raises
    ------
    ParameterError
        With a line for each that is wrong, which names it as the command line does.
    """
    wrong: list[str] = []
    demo = parameters.get(DEMO)
    for prefix, blocks in (("", parameters), (f"{DEMO}.", demo if isinstance(demo, Mapping) else {})):
        for name, kind in STAGE_PARAMS.items():
            said = None if name == "sweep" else blocks.get(name)  # kedro sweep alone reads it, and checks it
            if said is not None and not (prefix and _same_errors(kind, said, parameters.get(name))):
                wrong += _errors_of(kind, said, f"{prefix}{name}", given)
    if len(wrong) == 1:
        raise ParameterError(f"{wrong[0]} Set it with --params=<name>=<value>, or in a file of conf.")
    if wrong:
        lines = "\n".join(f"- {line}" for line in wrong)
        raise ParameterError(
            f"{len(wrong)} parameters are not as they must be. Set them with --params=<name>=<value>, or in a file of "
            f"conf:\n{lines}"
        )


def _same_errors(kind: type, one: Any, other: Any) -> bool:
    """Return whether two blocks are wrong in the same way: the demo's may be those of the user's tissue."""
    return bool(_errors_of(kind, one, "", {})) and _errors_of(kind, one, "", {}) == _errors_of(kind, other, "", {})


def _errors_of(kind: type, said: Any, block: str, given: Mapping[str, Any]) -> list[str]:
    """Return a line for each error of a block."""
    fields = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(said, Mapping):
        return [f"{block}={said}: this is a block of parameters. Name one, such as {block}.{fields[0]}."]
    try:
        kind(**{str(name): value for name, value in said.items()})
    except ValidationError as error:
        return [_line(kind, dict(said), one, block, given) for one in error.errors()]
    return []


def _line(kind: type, said: Any, error: Any, block: str, given: Mapping[str, Any]) -> str:
    place, message, known = [str(part) for part in error["loc"]], str(error["msg"]), kind
    for part in place:
        inner = next((field.type for field in dataclasses.fields(known) if field.name == part), None)
        if not dataclasses.is_dataclass(inner) and part == "network":
            inner = NetworkSettings
        if not (isinstance(inner, type) and dataclasses.is_dataclass(inner)):
            break
        known, said = inner, said.get(part) if isinstance(said, Mapping) else None
    names = [field.name for field in dataclasses.fields(known)]
    if error["type"] == "unexpected_keyword_argument":
        among = ".".join([block, *place[:-1]])
        message = f"there is no such parameter.{did_you_mean(place[-1], names)} {among} has {', '.join(names)}."
    elif error["type"] == "value_error":  # of a whole block, whose text names the field
        message = message.removeprefix("Value error, ")
        named = {name: found.start() for name in names if (found := re.search(rf"\b{name}\b", message))}
        place += sorted(named, key=lambda name: named[name])[:1]
    else:
        message = re.sub(r"^Input should", "must", message) + "."
    full = ".".join([block, *place]) if block else ".".join(place)
    if block == "tissue_reading" and place[-1] in RUN_TIME_PARAMETERS and place[-1] not in _given(given, block):
        full = place[-1]
    value = said.get(place[-1]) if isinstance(said, Mapping) and place and place[-1] in said else error.get("input")
    shown = "" if isinstance(value, Mapping) or value is None or "Args" in type(value).__name__ else f"={value}"
    return f"{full}{shown}: {message}"


def _given(given: Mapping[str, Any], block: str) -> Mapping[str, Any]:
    found = given.get(block)
    return found if isinstance(found, Mapping) else {}


def check_run_time_parameters(names: Iterable[str]) -> None:
    """Raise :class:`ParameterError` for a run-time parameter that nothing would read, with a hint at the nearest."""
    known = (*RUN_TIME_PARAMETERS, *STAGE_PARAMS, "demo")
    for name in names:
        if name not in known:
            blocks = [
                block for block, kind in STAGE_PARAMS.items() if name in {f.name for f in dataclasses.fields(kind)}
            ]
            if blocks:
                meant = " or ".join(f"{block}.{name}" for block in blocks)
                raise ParameterError(
                    f"unknown run-time parameter {name!r}. It is a field of a block: --params={meant}=<value>."
                )
            raise ParameterError(
                f"unknown run-time parameter {name!r}.{did_you_mean(name, known)} "
                f"Known are {', '.join(RUN_TIME_PARAMETERS)}, and the blocks {', '.join(STAGE_PARAMS)}."
            )


PLACES = ("study", "tissue", "root", "reports")
"""What must have a value: without one, outputs would go to a folder called None."""


def check_places(values: Mapping[str, Any]) -> None:
    """Raise :class:`ParameterError` where the study or a path is given without a value, as in ``study=``."""
    for name in PLACES:
        if name in values and values[name] in (None, ""):
            raise ParameterError(
                f"{name} must have a value. Got none; write --params={name}=<value>, or leave it out for the one in "
                "globals.yml."
            )


def check_seed(seed: object) -> None:
    """Raise :class:`ParameterError` unless the seed is a whole number that every generator takes."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < LARGEST_SEED:
        raise ParameterError(f"seed must be a whole number from 0 to {LARGEST_SEED - 1}. Got {seed!r} instead.")


def network_threshold(reporting: ReportingParams, quantile: float) -> float:
    """Return from what share of strong edges on a pair is drawn: as set, else twice what chance gives.

    >>> network_threshold(ReportingParams(), 0.95)
    0.1
    """
    from tissue_crosstalk.core.profiles import share_to_draw  # with scipy, which loading the parameters does not need

    given = reporting.network_threshold
    return share_to_draw(quantile) if given is None else given


def given_fields(given: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of blocks that run-time parameters set, by full name, as the stages take them.

    Parameters
    ----------
    given
        The run-time parameters.
    parameters
        As the configuration has them, with the run-time parameters, checked (:func:`check_blocks`).
    """
    return {
        f"{block}.{field}": getattr(STAGE_PARAMS[block](**parameters[block]), field)
        for block, fields in given.items()
        if block in STAGE_PARAMS and block in parameters and isinstance(fields, Mapping)
        if block != "sweep"  # kedro sweep alone reads it, and checks it
        for field in fields
    }


def check_hub_flavor(flavoring: FlavoringParams, hubs: HubsParams) -> None:
    """Raise :class:`ParameterError` if hubs are wanted of a flavor that is not computed."""
    if hubs.flavor not in flavoring.flavors:
        raise ParameterError(
            f"hubs.flavor is {hubs.flavor!r}, but flavoring.flavors has only {', '.join(flavoring.flavors)}. "
            "Add it there, or choose one of these."
        )


def study_name(name: object) -> str:
    """Return a study's name, checked to be one folder's name.

    Raises
    ------
    ParameterError
        If it could lead out of the data folders.
    """
    text = str(name)
    is_plain = re.fullmatch(r"[\w][\w .+-]{0,99}", text) and text[-1] not in " ."
    if not is_plain or len(text.encode()) > _LONGEST_STUDY or _DEVICES.fullmatch(text.partition(".")[0]):
        raise ParameterError(
            f"study must be a plain name of letters, digits, '_', '-', '+', '.' and spaces, that begins with a "
            f"letter or digit, ends with neither '.' nor a space, is no device of Windows (con, nul, …) and has at "
            f"most {_LONGEST_STUDY} bytes. Got {text!r} instead."
        )
    return text


def user_study(name: object) -> str:
    """Return the name of a user's study, which must not be one of the demo's; also where case makes no difference."""
    if str(name).casefold() == DEMO or str(name).casefold().startswith(f"{DEMO}-"):
        raise ParameterError(
            f"study must not be {DEMO!r}, nor begin with '{DEMO}-': these are the studies of --pipelines={DEMO}. Got "
            f"{str(name)!r} instead. Choose another name."
        )
    return study_name(name)


def demo_study(name: object) -> str:
    """Return the name of the demo's study: never that of a user's."""
    return DEMO if name is None else f"{DEMO}-{study_name(name)}"
