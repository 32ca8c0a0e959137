"""Where the network computes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tissue_crosstalk.core.errors import ParameterError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
_NAMES = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?")
_EXPECTED = "auto, cpu, cuda, cuda:<number> or mps"


def check_device_name(name: str) -> None:
    """Raise :class:`ParameterError` unless `name` is one of ``auto``, ``cpu``, ``cuda``, ``cuda:<number>``, ``mps``."""
    if not isinstance(name, str) or not _NAMES.fullmatch(name):
        raise ParameterError(f"device must be {_EXPECTED}. Got {name!r} instead.")


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``auto``: cuda where there is one, else mps, else cpu.

    Raises
    ------
    ParameterError
        If the name is unknown, or this machine has no such device.
    """
    import torch

    check_device_name(name)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == AUTO:
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    device = torch.device(name)
    n_devices = {"cuda": torch.cuda.device_count() if has_cuda else 0, "mps": int(has_mps)}.get(device.type, 1)
    if (device.index or 0) >= n_devices:
        raise ParameterError(
            f"device is {name!r}, but torch {torch.__version__} finds {n_devices} {device.type} devices here. Use "
            "device=auto or device=cpu, or install a torch that is built for the device."
        )
    if device.type == "cuda":
        # Of all of cuBLAS this alone depends on timing; it is read when cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


@contextmanager
def full_precision(*, allow_tf32: bool = False) -> Iterator[None]:
    """Compute float32 products in float32, whatever the process is set to; TF32 on request.

    Parameters
    ----------
    allow_tf32
        Whether a GPU may round factors to 11 bits, which is faster and good to about three digits.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
