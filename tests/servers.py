"""Servers that tests start: ports for them, and whether any of their processes is left."""

from __future__ import annotations

import socket
import subprocess


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def group_members(group: int) -> list[str]:
    """Return the commands of a process group that have not ended."""
    return [
        args
        for pgid, stat, args in _processes("pgid", "stat", "args")
        if pgid == str(group) and not stat.startswith("Z")
    ]


def children(parent: int) -> list[int]:
    """Return the process ids of a process's own children."""
    return [int(pid) for ppid, pid in _processes("ppid", "pid") if ppid == str(parent)]


def _processes(*fields: str) -> list[list[str]]:
    shown = subprocess.run(
        ["ps", "-A", "-o", ",".join(f"{field}=" for field in fields)], capture_output=True, text=True, check=True
    )
    return [line.split(maxsplit=len(fields) - 1) for line in shown.stdout.splitlines()]
