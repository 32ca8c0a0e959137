"""Load models, and write a line of JSON for each: seconds of work, bytes by which memory grew, and the error."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

from tissue_crosstalk.core.checkpoint import load_model
from tissue_crosstalk.core.errors import CheckpointError

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Return the peak of this process's memory; what getrusage says on Linux includes that of the process before."""
    if STATUS.exists():
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Begin a new peak, where the system can; elsewhere what later models take shows only beyond the peak so far."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def main() -> None:
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        forget_peak()
        before, start = peak_bytes(), time.process_time()
        try:
            load_model(path)
        except CheckpointError as error:
            message = str(error)
        else:
            message = ""
        seconds = time.process_time() - start
        line = {"seconds": seconds, "grown": peak_bytes() - before, "error": message}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
