"""Carry out a study on a Ray cluster: every run is a task, and a branch waits for its trunk.

The study's folder and the store must be at the same path on every machine. All state stands there:
a task that is tried again, on whichever machine, goes on from its run's last checkpoint, and when
the head or this process dies, the same command continues the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unlabel.errors import InputMissing, Preempted
from unlabel.study.figures import Judge
from unlabel.study.folder import Study
from unlabel.study.plan import PlannedRun
from unlabel.study.runner import end_if_asked, resumable, settle, train_and_judge
from unlabel.training.lock import sole_owner
from unlabel.training.signals import StopRequest

RETRIES = 5
"""How often a run whose machine died, or was taken away, is tried again."""
POLL = 1
"""Seconds between looks at whether the study was asked to stop."""
GRACE = 60
"""Seconds that the tasks have to save themselves when the study is stopped."""


def carry_out_on_ray(study: Study, tell: Callable[[str], None]) -> None:
    """Train and measure every run that has not ended, as many at once as the cluster holds.

    A run takes an accelerator, where the cluster has any, and a processor for itself and each of
    its workers. Joins the cluster that ``RAY_ADDRESS`` names or that runs on this machine, and
    begins one here where there is none.

    Args:
        study: whose folder every machine sees.
        tell: called with a sentence when a run ends.

    Raises:
        InputMissing: Ray is not installed.
        UsageError: another process works on the study.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    with sole_owner(study.path), resumable(study), StopRequest() as stop:
        settle(study)
        tasks = _submit(ray, study)
        try:
            _wait(ray, study, tasks, tell, stop)
        except BaseException:
            _stop(ray, tasks)
            raise


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputMissing("--on ray needs Ray: pip install 'unlabel[ray]'.") from None
    return ray


def _submit(ray: Any, study: Study) -> dict[str, Any]:
    """A task for each run that is left, by the run's name; a branch takes its trunk's result."""
    accelerators = 1 if ray.cluster_resources().get("GPU") else 0
    tasks: dict[str, Any] = {}
    for planned in study.left():
        task = ray.remote(
            num_cpus=1 + planned.config.workers,
            num_gpus=accelerators,
            max_retries=RETRIES,
            retry_exceptions=[Preempted],
        )(train_one)
        trunk = tasks.get(planned.trunk or "")
        tasks[planned.name] = task.options(name=planned.name).remote(
            str(study.path.absolute()), planned.name, trunk
        )
    return tasks


def train_one(study: str, name: str, trunk: str | None) -> str:
    """One run of the study at this path, to its recorded outcome; the task's body."""
    opened = Study.open(Path(study))
    planned = next(run for run in opened.plan.runs if run.name == name)
    if opened.outcome(name) is None:
        judge = Judge(planned.config, opened.plan.asked.protocols)
        opened.record(name, train_and_judge(opened, planned, judge, _silently))
    return name


@contextmanager
def _silently(planned: PlannedRun) -> Iterator[tuple[Any, Any]]:
    yield (lambda *_: None), (lambda _: None)


def _wait(
    ray: Any,
    study: Study,
    tasks: dict[str, Any],
    tell: Callable[[str], None],
    stop: StopRequest,
) -> None:
    """Write the table as the runs end."""
    waiting = list(tasks.values())
    while waiting:
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=POLL)
        end_if_asked(stop)
        for task in ended:
            try:
                name = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            settle(study)
            state = (study.outcome(name) or {}).get("state")
            tell(f"{len(tasks) - len(waiting)} of {len(tasks)}: {name} is {state}")


def _stop(ray: Any, tasks: dict[str, Any]) -> None:
    """Ask every task to save itself, as Ctrl-C does, and wait for that."""
    for task in tasks.values():
        ray.cancel(task)
    ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=GRACE)
