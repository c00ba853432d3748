"""In words: where the run is clearly better than what stands beside it, and where it is not."""

from __future__ import annotations

from pathlib import Path

from unlabel.errors import UnlabelError
from unlabel.evaluation.results import Difference, Results
from unlabel.report.scores import ScoreTable


def load_results(path: Path) -> Results:
    """The results with their single images; none where they cannot be read."""
    try:
        return Results.load(path)
    except (UnlabelError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Results()


def gains(measured: Results, table: ScoreTable, run: str) -> list[str]:
    """Sentences on the paired differences of ``run`` to each other subject of ``table``.

    Differences are those of `Results.difference`: the same images and seeds, 95 % intervals. There
    are none where single images were not recorded or several test sets are mixed.
    """
    if len({result.test for result in measured}) != 1:
        return []
    scores = {(score.subject, score.labels): score.protocol for score in table.scores}
    sentences = []
    for rival in (name for name, _ in table.rows if name != run):
        shared = [size for size in table.sizes if {(run, size), (rival, size)} <= scores.keys()]
        differences = [measured.difference(run, rival, scores[run, size], size) for size in shared]
        if differences:
            sentences.append(f"Against {rival}: {_words(differences)}.")
    return sentences


def _words(differences: list[Difference]) -> str:
    kinds = {
        "clearly better": [d for d in differences if d.low > 0],
        "clearly worse": [d for d in differences if d.high < 0],
        "no clear difference": [d for d in differences if d.low <= 0 <= d.high],
    }
    parts = [
        f"{kind} with {_listed([d.labels for d in found])} labels "
        f"({', '.join(f'{100 * d.gain:+.1f}' for d in found)} points)"
        for kind, found in kinds.items()
        if found
    ]
    return "; ".join(parts)


def _listed(labels: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
