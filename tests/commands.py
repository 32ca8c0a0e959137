"""``kedro`` commands for the tests, each in a process of its own, forked from one that has imported what all import.

What a command writes, how it takes signals and how it ends are those of ``kedro`` itself, whose ``main`` it runs; what
is spared is the start, which is most of the time of a command that is soon refused. That the start works, too, is seen
where :func:`kedro_command` runs one anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sessions import PROJECT, import_what_runs_import


def environment() -> dict[str, str]:
    """Return the environment of commands.

    It is without the store that MLflow has set there for a session of this process, and wide, so that no word is
    broken where a line ends.
    """
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return {**own, "COLUMNS": "4000", "DO_NOT_TRACK": "1"}


def kedro_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command from the very start."""
    command = [str(Path(sys.executable).with_name("kedro")), *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment(), capture_output=True, text=True, check=False)


class Begun:
    """A command that was begun: its process, and what it writes into files."""

    def __init__(self, kedro: Kedro, pid: int, stdout: Path, stderr: Path) -> None:
        self._kedro = kedro
        self.pid = pid
        self._files = stdout, stderr

    def ended(self) -> bool:
        """Say whether it has."""
        return bool(self._kedro.ask("ended", pid=self.pid))

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        status: int = self._kedro.ask("wait", pid=self.pid)
        stdout, stderr = (file.read_text() for file in self._files)
        return subprocess.CompletedProcess([], status, stdout, stderr)


class Kedro:
    """Runs commands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__], cwd=PROJECT, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, what: str, **given: Any) -> Any:
        """Ask the process that forks, and return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"what": what, **given}) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the process that forks commands has ended"
        return json.loads(answer)

    def begin(self, *arguments: str) -> Begun:
        """Begin a command, such as ``begin("run", "--env=test")``."""
        self._number += 1
        stdout, stderr = (self._folder / f"{self._number}.{name}" for name in ("out", "err"))
        pid = self.ask("start", arguments=arguments, stdout=str(stdout), stderr=str(stderr))
        return Begun(self, pid, stdout, stderr)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.begin(*arguments).wait()

    def close(self) -> None:
        """End the process that forks."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def _be_kedro(arguments: Sequence[str], stdout: str, stderr: str) -> None:
    """Turn this process into a command."""
    for path, descriptor in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if descriptor else 0), 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = ["kedro", *arguments]
    from kedro.framework.cli import main

    main()


def _serve() -> None:
    """Answer what :meth:`Kedro.ask` asks, until there is no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where imports are logged
    import_what_runs_import()
    sys.stdout.flush()
    while asked := sys.stdin.readline():
        given = json.loads(asked)
        match given.pop("what"):
            case "wait":
                answer = os.waitstatus_to_exitcode(os.waitpid(given["pid"], 0)[1])
            case "ended":
                answer = int(os.waitid(os.P_PID, given["pid"], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)
            case _:
                answer = os.fork()
                if not answer:
                    answers.close()
                    _be_kedro(**given)
                    return
        answers.write(f"{answer}\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
