"""How good a model is on labelled pictures, and how much an artifact lost against a baseline.

Expressions: accuracy, the recall of each class, the confusion matrix. Re-identification: Market-1501's protocol
(edge_stra/evaluation/ranking.py says it in words).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.data import list_fer
from edge_stra.embeddings import unit_rows
from edge_stra.evaluation.confusion import draw_confusion
from edge_stra.evaluation.matches import draw_matches
from edge_stra.evaluation.ranking import RANKS, check_queries, rank
from edge_stra.evaluation.subjects import Array, Progress, Subject
from edge_stra.identities import list_market
from edge_stra.spec import ArtifactError

Bars = Callable[[str], Progress]  # a label -> a way to show progress


def silent(label: str) -> Progress:
    return iter


@dataclass(frozen=True)
class Evaluation:
    """The figures, ready for JSON, and a picture of the result, drawn when it is asked for: uint8 [H, W, 3], RGB."""

    report: dict[str, Any]
    draw: Callable[[], NDArray[np.uint8]]


def evaluate(subject: Subject, data: Path, baseline: Subject | None = None, bars: Bars = silent) -> Evaluation:
    """The evaluation of the subject's task. Raises ArtifactError where the baseline's task is another."""
    run = EVALUATIONS.get(subject.spec.task)
    if run is None:
        raise ArtifactError(f"{subject.label} must be for fer or reid, but is for {subject.spec.task!r}")
    return run(subject, data, baseline, bars)


def evaluate_fer(subject: Subject, data: Path, baseline: Subject | None = None, bars: Bars = silent) -> Evaluation:
    """Accuracy and recall of each class, in percent, on a folder with one folder for each label.

    With a baseline: its accuracy, the drop from it in points, and the top-1 agreement. `confusion`
    counts pictures [truth, choice]. Raises ArtifactError for another task, DataError for another layout of folders.
    """
    check_task("fer", subject, baseline)
    paths, truth = list_fer(data, subject.spec.labels)
    chosen = subject.embed(paths, bars(subject.label)).argmax(1)
    labels = subject.spec.labels
    report: dict[str, Any] = {
        "pictures": len(paths),
        "accuracy": accuracy(chosen, truth),
        "recall": {label: accuracy(chosen[truth == i], truth[truth == i]) for i, label in enumerate(labels)},
        "confusion": np.bincount(truth * len(labels) + chosen, minlength=len(labels) ** 2)
        .reshape(len(labels), -1)
        .tolist(),
    }
    if baseline is not None:
        other = baseline.embed(paths, bars(baseline.label)).argmax(1)
        report["baseline_accuracy"] = accuracy(other, truth)
        report["drop"] = report["baseline_accuracy"] - report["accuracy"]
        report["agreement"] = accuracy(chosen, other)
    title = f"{report['accuracy']:.2f} % of {len(paths)} pictures: {subject.label}"
    return Evaluation(report, lambda: draw_confusion(np.array(report["confusion"]), labels, title))


def evaluate_reid(subject: Subject, data: Path, baseline: Subject | None = None, bars: Bars = silent) -> Evaluation:
    """`map`, `rank1`, `rank5`, `rank10` in percent on a folder in Market-1501's layout, and what was counted.

    `queries` are those with something to find, `gallery` the crops that are not junk. With a baseline: its figures
    as `baseline_map` and so on, and `drop`, of mAP in points. Raises ArtifactError for another task, DataError for
    another layout of folders.
    """
    check_task("reid", subject, baseline)
    query, gallery = list_market(data)
    check_queries(query, gallery)  # before minutes of work

    def measure(model: Subject) -> tuple[Array, Array, dict[str, Any]]:
        paths = query.paths + gallery.paths
        vectors = model.embed(paths, bars(model.label))
        if not (directed := vectors.any(axis=1)).all():
            raise ArtifactError(
                f"{model.label} must tell people apart, but gives zeros for {paths[int(directed.argmin())]}"
            )
        vectors = unit_rows(vectors)
        asked, shown = vectors[: len(query)], vectors[len(query) :]
        return asked, shown, rank(asked, query, shown, gallery)

    asked, shown, report = measure(subject)
    report = {"queries": report["queries"], "gallery": len(gallery)} | report
    if baseline is not None:
        figures = measure(baseline)[2]
        report |= {f"baseline_{key}": figures[key] for key in ("map", *(f"rank{r}" for r in RANKS))}
        report["drop"] = report["baseline_map"] - report["map"]
    title = f"mAP {report['map']:.2f} %, rank-1 {report['rank1']:.2f} %: {subject.label}"
    return Evaluation(report, lambda: draw_matches(asked, query, shown, gallery, title))


EVALUATIONS = {"fer": evaluate_fer, "reid": evaluate_reid}


def check_task(task: str, subject: Subject, baseline: Subject | None) -> None:
    """Raises ArtifactError where a model is for another task, or the baseline has other labels."""
    if subject.spec.task != task:
        raise ArtifactError(f"{subject.label} must be for the task {task}, but is for {subject.spec.task}")
    if baseline is not None and baseline.spec.task != task:
        raise ArtifactError(
            f"the baseline must be for the task {task}, like {subject.label}, but {baseline.label} is for "
            f"{baseline.spec.task}; give another --baseline"
        )
    for each in filter(None, (subject, baseline)):
        if each.spec.labels != subject.spec.labels:
            raise ArtifactError(
                f"{each.label} must have the labels {', '.join(subject.spec.labels)}, like {subject.label}, but has "
                f"{', '.join(each.spec.labels)}"
            )


def accuracy(chosen: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of equal entries, in percent."""
    return 100 * float((chosen == truth).mean())


def render(report: dict[str, Any]) -> str:
    """A report in lines for people."""
    if "map" in report:
        lines = [f"mAP {report['map']:.2f} % on {report['queries']} queries, {report['gallery']} gallery crops"]
        lines += [f"  rank-{r:<3}{report[f'rank{r}']:7.2f} %" for r in RANKS]
        if "drop" in report:
            lines.append(
                f"baseline mAP {report['baseline_map']:.2f} %, rank-1 {report['baseline_rank1']:.2f} %, "
                f"drop {report['drop']:+.2f} points of mAP"
            )
        return "\n".join(lines)
    lines = [f"accuracy {report['accuracy']:.2f} % on {report['pictures']} pictures"]
    lines += [f"  recall {label:<10} {value:6.2f} %" for label, value in report["recall"].items()]
    if "drop" in report:
        lines.append(
            f"baseline {report['baseline_accuracy']:.2f} %, drop {report['drop']:+.2f} points, "
            f"top-1 agreement {report['agreement']:.2f} %"
        )
    return "\n".join(lines)


def find_failures(report: dict[str, Any], least: float | None, most_drop: float | None) -> list[str]:
    """What is below `least` (percent of accuracy or mAP) or above `most_drop` (points). NaN as a limit fails."""
    key, name = ("map", "mAP") if "map" in report else ("accuracy", "accuracy")
    failures = []
    if least is not None and not report[key] >= least:
        failures.append(f"{name} must be at least {least:g} %, but is {report[key]:.2f} %")
    if most_drop is not None and not report["drop"] <= most_drop:
        failures.append(f"the drop must be at most {most_drop:g} points, but is {report['drop']:.2f}")
    return failures
