"""What a finished run's monitors say in plain words: go on, stop, get more data, or mend it.

The rules and their thresholds are stated here once; the getting-started page quotes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from unlabel.training.split import HELD_OUT

State = Literal["improving", "saturated", "overfitting", "collapsed", "unclear"]

FEWEST_LOOKS = 5
"""Monitor rows needed before a trend is spoken of."""
LEAST_GAIN = 0.005
"""A fall of the held-out loss below this share of where it began counts as not learning."""
LATE = 0.5
"""The last share of the run that says whether it still improves: half, since a decaying learning
rate makes every run level off towards its end."""
SATURATED_BELOW = 0.02
"""A late gain below this share of the whole gain counts as none."""
OVERFIT_ABOVE = 0.02
"""A rise from the lowest held-out loss above this share of the whole gain counts as overfitting."""
COLLAPSED_STD = 0.05
"""Spread of unit-length features (1 = spread evenly in all directions) that counts as none."""
COLLAPSED_RANK = 1.1
"""RankMe below which all images have the same direction in feature space."""
MOVING_TARGET = "The loss is measured against a network that learns too: it may rise or fall."
AGAINST_COLLAPSE = "Lower the learning rate (--set optim.lr=...), or lengthen the warm-up."


@dataclass(frozen=True)
class Verdict:
    """The state of a run, its reasons, and what to do next."""

    state: State
    headline: str
    why: tuple[str, ...]
    next: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain values, as in ``verdict.json``."""
        return asdict(self)


def judge(
    monitors: list[dict[str, Any]], steps: int, held_out: int, loss_tells: bool = True
) -> Verdict:
    """Judge a run by its monitor rows.

    Args:
        monitors: rows with ``step``, ``held_out_loss``, ``feature_std``, ``rankme`` and maybe
            ``knn``, in order; the first is that of the untrained network.
        steps: updates that the run was asked for.
        held_out: images that the monitors look at.
        loss_tells: whether a lower loss means a better network. It does not for a method whose
            targets are another network's outputs without a scale of their own; then the online kNN
            is the judge.
    """
    if len(monitors) < FEWEST_LOOKS:
        return _unclear(
            f"The monitors looked {len(monitors)} times; {FEWEST_LOOKS} are needed for a trend.",
            "Train for more steps.",
        )
    if held_out < HELD_OUT:
        return _unclear(
            f"Images held out: {held_out}; {HELD_OUT} are needed to judge by.",
            "Gather more images: so few teach a network little.",
        )
    loss = np.array([row["held_out_loss"] for row in monitors])
    at = np.array([row["step"] for row in monitors])
    evidence = _evidence(monitors, loss, held_out)
    if why := _lasting_collapse(monitors):
        return _collapsed(why, evidence)
    if not loss_tells:
        return _by_neighbours(monitors, steps, held_out, (MOVING_TARGET, *evidence))
    gain = loss[0] - loss.min()
    if gain < LEAST_GAIN * abs(loss[0]):
        return _never_learned(evidence)
    rise = (loss[-1] - loss.min()) / gain
    if rise > OVERFIT_ABOVE:
        return _overfitting(rise, int(at[loss.argmin()]), evidence)
    late = (np.interp((1 - LATE) * at[-1], at, loss) - loss[-1]) / gain
    return _by_late_gain(late, "the held-out loss", steps, evidence)


def collapse(row: dict[str, Any]) -> str | None:
    """Why the features of a monitor row count as collapsed; ``None`` where they do not."""
    std, rank = row["feature_std"], row["rankme"]
    if std >= COLLAPSED_STD and rank >= COLLAPSED_RANK:
        return None
    return (
        f"Spread of features {std:.3f} (collapsed below {COLLAPSED_STD}), "
        f"RankMe {rank:.2f} (collapsed below {COLLAPSED_RANK})."
    )


def _lasting_collapse(monitors: list[dict[str, Any]]) -> str | None:
    """Why the run counts as collapsed: at its end, or at times in its second half."""
    if why := collapse(monitors[-1]):
        return why
    late = (1 - LATE) * monitors[-1]["step"]
    found = {row["step"]: why for row in monitors[1:] if (why := collapse(row))}
    if not any(step > late for step in found):
        return None
    first, why = next(iter(found.items()))
    return f"At {len(found)} of {len(monitors) - 1} looks, first by step {first}: {why}"


def _evidence(monitors: list[dict[str, Any]], loss: np.ndarray, held_out: int) -> tuple[str, ...]:
    """Sentences on every monitor, whatever the verdict."""
    first, last = monitors[0], monitors[-1]
    lines = [
        f"Held-out loss went from {loss[0]:.4f} to {loss[-1]:.4f} (lowest {loss.min():.4f}).",
        f"RankMe went from {first['rankme']:.1f} to {last['rankme']:.1f}.",
    ]
    if "knn" in last:
        chance = _chance(last["knn"], held_out)
        line = (
            f"Online kNN went from {first['knn']:.1%} to {last['knn']:.1%} ({held_out:,} images: "
            f"±{100 * chance:.1f} points)."
        )
        if last["knn"] <= first["knn"]:
            line += (
                " That is no better than the untrained network: the features are not yet useful."
            )
        elif last["knn"] - first["knn"] < chance:
            line += " By so few images that cannot be told from the untrained network."
        lines.append(line)
    return tuple(lines)


def _chance(accuracy: float, images: int) -> float:
    """Half of the 95 % interval of an accuracy on so many images (normal approximation)."""
    return float(1.96 * np.sqrt(accuracy * (1 - accuracy) / images))


def _by_neighbours(
    monitors: list[dict[str, Any]], steps: int, held_out: int, evidence: tuple[str, ...]
) -> Verdict:
    """For losses without a fixed scale: the online kNN tells, where there are labels."""
    if "knn" not in monitors[-1]:
        return Verdict(
            "unclear",
            "The features did not collapse; more cannot be told without labels.",
            evidence,
            ("Judge it with a few labels: unlabel evaluate RUN --data LABELLED.",),
        )
    knn = np.array([row["knn"] for row in monitors])
    gain = knn.max() - knn[0]
    if gain < LEAST_GAIN:
        return _never_learned(evidence, "the online kNN is not above where it began")
    if gain < _chance(knn.max(), held_out):
        return Verdict(
            "unclear",
            f"The online kNN rose by no more than chance explains on {held_out:,} images.",
            evidence,
            ("Judge it with more labels: unlabel evaluate RUN --data LABELLED.",),
        )
    at = np.array([row["step"] for row in monitors])
    late = (knn[-1] - np.interp((1 - LATE) * at[-1], at, knn)) / gain
    return _by_late_gain(late, "the online kNN", steps, evidence)


def _unclear(why: str, advice: str) -> Verdict:
    return Verdict("unclear", "Too little was measured to tell.", (why,), (advice,))


def _collapsed(why: str, evidence: tuple[str, ...]) -> Verdict:
    return Verdict(
        "collapsed",
        "The features collapsed: all images look almost the same to the network.",
        (why, *evidence),
        (AGAINST_COLLAPSE,),
    )


def _never_learned(
    evidence: tuple[str, ...], why: str = "the held-out loss is not below where it began"
) -> Verdict:
    return Verdict(
        "unclear",
        f"The run did not learn: {why}.",
        evidence,
        ("Try another learning rate (--set optim.lr=...) or more steps.",),
    )


def _overfitting(rise: float, best: int, evidence: tuple[str, ...]) -> Verdict:
    return Verdict(
        "overfitting",
        f"Overfitting: the held-out loss has risen since step {best}.",
        (
            f"It lost {rise:.0%} of what it had gained by then (over {OVERFIT_ABOVE:.0%} counts).",
            *evidence,
        ),
        (
            f"The best checkpoint is kept; the export holds it. Next time stop near step {best}.",
            "More images, a smaller model or stronger crops would let a longer run pay.",
        ),
    )


def _by_late_gain(late: float, of: str, steps: int, evidence: tuple[str, ...]) -> Verdict:
    """By the share of the whole gain that the second half of the run brought."""
    if late < SATURATED_BELOW:
        return Verdict(
            "saturated",
            "Saturated: the second half of the run brought almost nothing.",
            (
                f"It brought {max(late, 0):.1%} of the whole gain of {of} (below "
                f"{SATURATED_BELOW:.0%} counts as saturated).",
                *evidence,
            ),
            ("More steps are unlikely to help. Try a larger model, or more images.",),
        )
    return Verdict(
        "improving",
        "Still improving: the run was shorter than it could have been.",
        (
            f"The second half of the run brought {min(late, 1):.0%} of the whole gain of {of}.",
            *evidence,
        ),
        (f"Train longer on the same images, in a new run: --steps {2 * steps}.",),
    )
