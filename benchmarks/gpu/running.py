"""Steps one by one, each with a limit of its own, within a total. A step that fails stops no other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SKIPPED = 77  # the exit code of a step that has nothing to do here; its last line says why
GRACE = 15.0  # seconds that a step has to save what it has, from the interrupt at its limit to its end
PASSED, FAILED, STOPPED, SKIP, LATE = 'passed', 'failed', 'stopped at its limit', 'skipped', 'no time was left'


@dataclass(frozen=True)
class Step:
    """One thing to be settled.

    Attributes:
        name: of the step, and of its folder.
        what: what it settles.
        command: a program and its arguments, run in the root of the repository; `{folder}` is where its results go, `{seconds}`
            how long it has.
        limit: seconds after which it is interrupted.
        least: seconds without which it is not started.
    """

    name: str
    what: str
    command: tuple[str, ...]
    limit: float
    least: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        name: of the step.
        what: what it settles.
        status: one of `PASSED`, `FAILED`, `STOPPED`, `SKIP` and `LATE`.
        seconds: that it took.
        code: its exit code; None where it did not start.
        last: the last line that it printed.
    """

    name: str
    what: str
    status: str
    seconds: float
    code: int | None
    last: str


def run_all(
    steps: Iterable[Step], work: Path, root: Path, seconds: float, environment: Mapping[str, str], done: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run steps in their order until the time is up.

    Args:
        steps: What to run.
        work: A folder; every step gets one in it, which holds its log as well.
        root: Where the commands run.
        seconds: For all steps together.
        environment: Of the commands.
        done: Called with the outcome of every step as soon as it ends.
    """
    end, outcomes = time.monotonic() + seconds, []
    for step in steps:
        left = end - time.monotonic() - GRACE
        if left < min(step.least, step.limit):
            outcome = Outcome(step.name, step.what, LATE, 0.0, None, '')
        else:
            outcome = run(step, work / step.name, root, min(step.limit, left), environment)
        outcomes.append(outcome)
        done(outcome)
    return outcomes


def run(step: Step, folder: Path, root: Path, limit: float, environment: Mapping[str, str]) -> Outcome:
    """Run one step, and interrupt it at its limit."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {'folder': str(folder), 'seconds': str(round(limit))}
    command = [word.format(**given) for word in step.command]
    log, started, stopped = folder / 'log.txt', time.monotonic(), False
    with log.open('w', encoding='utf-8') as output:
        try:
            process = subprocess.Popen(
                command, cwd=root, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            print(error, file=output)
            code: int | None = None
        else:
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                stopped, code = True, stop(process)
            finally:
                end_all(process)  # what it started and left behind
    lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
    last = next((line.strip() for line in reversed(lines) if line.strip()), '')
    status = STOPPED if stopped else {0: PASSED, SKIPPED: SKIP}.get(FAILED if code is None else code, FAILED)
    return Outcome(step.name, step.what, status, round(time.monotonic() - started, 1), code, last[-300:])


def stop(process: subprocess.Popen[bytes]) -> int:
    """Interrupt a process, which may then save what it has; kill it and what it started if it takes too long."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        end_all(process)
        return process.wait()


def end_all(process: subprocess.Popen[bytes]) -> None:
    """Kill every process of the session of one that was started for a step."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
