"""The training loop: a batch in, an update out, the same bits whenever it is stopped and resumed.

Nothing here is random on its own: batches are a pure function of (store, seed, step), and torch's
generator is seeded anew by (seed, step, rank), so a checkpoint holds no generator state.
"""

from __future__ import annotations

import hashlib
import math
import signal
from collections.abc import Callable
from contextlib import closing, nullcontext

import torch
from torch import Tensor

from unlabel.data.loader import stream
from unlabel.errors import Diverged, OutOfMemory, Preempted
from unlabel.memory import kept_memory
from unlabel.methods.base import Losses, Progress
from unlabel.methods.registry import get_method
from unlabel.training import checkpoint
from unlabel.training.exported import exported_state
from unlabel.training.lock import sole_trainer
from unlabel.training.optim import set_learning_rate, set_weight_decay
from unlabel.training.recorder import Recorder
from unlabel.training.run import Run
from unlabel.training.schedule import learning_rate, weight_decay
from unlabel.training.setup import Training, assemble, processes
from unlabel.training.signals import StopRequest
from unlabel.training.verdict import AGAINST_COLLAPSE, Verdict, collapse, judge

Watch = Callable[[int, int, float, float], None]
"""Called after each step with (updates done, updates in all, images a second, loss)."""
Tell = Callable[[str], None]
"""Called with a sentence when something slow begins, and with warnings."""


def train(run: Run, watch: Watch = lambda *_: None, tell: Tell = lambda _: None) -> Verdict:
    """Train ``run`` from its last checkpoint (or from the start) to its end, and judge it.

    Raises:
        Diverged: the loss or the gradient stopped being finite; the last checkpoint is intact.
        Preempted: a signal asked for an end; everything up to the last step is saved.
        UsageError: another process is training this run.
        OutOfMemory: the device's memory does not hold the batch.
    """
    with StopRequest() as stop, sole_trainer(run), kept_memory(processes().device.type):
        training = assemble(run, tell)
        try:
            _run_steps(run, training, stop, watch, tell)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(run, error) from None
        finally:
            for tracker in training.accelerator.trackers:  # processes stay joined: runs may follow
                tracker.finish()
    return judged(run, len(training.monitors.held_out))


def judged(run: Run, held_out: int) -> Verdict:
    """The verdict on a run that ended, by what was seen of so many images; kept with the run."""
    loss_tells = not get_method(run.config.method).target_moves
    verdict = judge(run.metrics("monitor"), run.steps_in_all, held_out, loss_tells)
    if processes().is_main_process:
        run.write_json("verdict.json", verdict.as_dict())
    return verdict


def _run_steps(run: Run, training: Training, stop: StopRequest, watch: Watch, tell: Tell) -> None:
    config = run.config
    recorder = Recorder(run, training.accelerator, stop)
    alone = training.accelerator.num_processes == 1
    looks = looking_points(config.steps, config.evaluations)
    start = _restore(run, training)
    collapsed = False
    micro = stream(  # whose workers start beside the first look
        training.batches,
        start * config.accumulate,
        config.steps * config.accumulate,
        workers=config.workers,
        device=training.accelerator.device,
    )
    with closing(micro):  # an error that somebody holds on to holds no workers
        if start == 0:
            count = len(training.monitors.held_out)
            tell(f"Looking at the {count:,} held-out images before step 1")
            _look(run, training, recorder, 0)
        if config.compile:
            tell("Compiling in the first step, which takes minutes")
        for step in range(start, config.steps):
            _seed(config.seed, step, training.accelerator.process_index)
            lr = learning_rate(config.optim, step, config.steps, config.batch_size)
            _update(training, recorder, micro, Progress(step, config.steps), lr)
            done = step + 1
            watch(done, config.steps, recorder.speed, recorder.loss)
            if done in looks:
                recorder.flush()
                why = collapse(_look(run, training, recorder, done))
                if why and not collapsed:
                    tell(
                        f"Warning: the features collapsed by step {done}. {why} {AGAINST_COLLAPSE}"
                    )
                collapsed = why is not None
            stopping = stop.received is not None if alone else recorder.stopping
            stopping = stopping and done < config.steps
            if stopping or done in looks or done in config.keep:
                recorder.flush()
                _save(run, training, done)
            if stopping:
                raise _stopped(stop.received, run, done)


def _update(training: Training, recorder: Recorder, micro, progress: Progress, lr: float) -> None:
    """One update of the weights, over the micro-batches that it is made of."""
    config, optimizer = training.config, training.optimizer
    scalars: dict[str, Tensor] = {}
    for part in range(1, config.accumulate + 1):
        last = part == config.accumulate
        with nullcontext() if last else training.accelerator.no_sync(training.model):
            with training.autocast():
                losses: Losses = training.model(next(micro), progress)
            training.accelerator.backward(losses.total / config.accumulate)
        _add(scalars, {"loss": losses.total, **losses.scalars}, config.accumulate)
    scalars["grad_norm"] = torch.nn.utils.clip_grad_norm_(
        training.parameters, config.optim.clip_grad or math.inf, foreach=True
    )
    # Before the update: on a processor a loss that is not finite is never applied.
    recorder.add(progress.step, lr, scalars, config.batch_size)
    set_learning_rate(optimizer, lr)
    set_weight_decay(optimizer, weight_decay(config.optim, progress.step, progress.steps))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    training.method.after_step(progress)
    _average(training, progress)


def _average(training: Training, progress: Progress) -> None:
    """Move the averaged weights, faster at first so that the random start is soon forgotten."""
    method, decay = training.method, training.config.average
    if method.average is not None and decay is not None:
        warm = (1 + progress.step) / (10 + progress.step)
        method.average.update(method.backbone, min(decay, warm))


def _add(sums: dict[str, Tensor], scalars: dict[str, Tensor], parts: int) -> None:
    """Average scalars over micro-batches without leaving the device."""
    for name, value in scalars.items():
        share = value.detach() / parts
        sums[name] = sums[name] + share if name in sums else share


def looking_points(steps: int, looks: int) -> set[int]:
    """Numbers of updates after which the monitors look: evenly spread, the last among them."""
    return {max(1, round(steps * i / looks)) for i in range(1, looks + 1)}


def _look(run: Run, training: Training, recorder: Recorder, done: int) -> dict[str, float]:
    _refuse_broken_weights(training, done)
    _seed(run.config.held_out_seed, 0, 0)
    values = training.monitors.look(Progress(done, run.config.steps))
    recorder.monitor(done, values)
    return values


def _refuse_broken_weights(training: Training, done: int) -> None:
    """Raise Diverged where the last update left weights that are not finite."""
    weights: list[Tensor] = [p.detach() for p in training.parameters]
    norms = torch.stack(torch._foreach_norm(weights))
    if not norms.isfinite().all():
        raise Diverged(
            f"The weights stopped being finite by step {done}, and nothing of that was saved. "
            "Start again with a lower learning rate (--set optim.lr=...) or --set precision=fp32."
        )


def _save(run: Run, training: Training, done: int) -> None:
    """Write a checkpoint; drop all but this, the one with the best held-out loss and the kept."""
    _refuse_broken_weights(training, done)
    if training.accelerator.is_main_process:
        checkpoint.save(
            run.checkpoints,
            done,
            training.method.state_dict(),
            training.optimizer,
            training.names,
            exported_state(training.method, training.batches.store.info),
        )
        keep = (done, best_step(run), *run.config.keep)
        checkpoint.prune(
            run.checkpoints, {checkpoint.path_of(run.checkpoints, step) for step in keep}
        )
    training.accelerator.wait_for_everyone()


def best_step(run: Run) -> int:
    """Updates after which the held-out loss was lowest, among those with a checkpoint."""
    rows = [
        row
        for row in run.metrics("monitor")
        if checkpoint.path_of(run.checkpoints, row["step"]).is_dir()
    ]
    return min(rows, key=lambda row: row["held_out_loss"])["step"] if rows else 0


def _restore(run: Run, training: Training) -> int:
    """Load the newest complete checkpoint; the number of updates that it holds."""
    newest = checkpoint.latest(run.checkpoints)
    step = 0
    if newest is not None:
        state = checkpoint.load(newest, training.method, training.optimizer, training.names)
        step = state["step"]
    if training.accelerator.is_main_process:
        run.truncate_metrics(step)
    training.accelerator.wait_for_everyone()
    return step


def _seed(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step (dropout, drop path) from its place in the run alone."""
    key = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(key, "little", signed=True))


def _stopped(number: int | None, run: Run, done: int) -> Preempted | KeyboardInterrupt:
    saved = (
        f"saved after step {done} of {run.config.steps}. "
        f"Continue with: unlabel pretrain --resume {run.path}"
    )
    if number == signal.SIGINT:
        return KeyboardInterrupt(f"Stopped, and {saved}")
    name = signal.Signals(number).name if number else "Another process's signal"
    return Preempted(f"{name} received: {saved}")


def _out_of_memory(run: Run, error: Exception) -> OutOfMemory:
    batch, parts = run.config.batch_size, run.config.accumulate
    return OutOfMemory(
        f"The device's memory does not hold {batch // parts} images at once "
        f"({str(error).splitlines()[0]}). Compute the same batch in smaller parts (methods that "
        "compare images then compare those of a part) with "
        f"--set accumulate={parts * 2}, or choose a smaller --batch-size or --image-size."
    )
