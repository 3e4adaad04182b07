"""The eyes of the expression app: faces found, followed, read and smoothed, frame after frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.apps.attention import draw_masks
from edge_stra.apps.detect import crop_with_margin, square_around
from edge_stra.apps.expression import expression_of
from edge_stra.apps.overlay import draw_expressions
from edge_stra.apps.privacy import hide
from edge_stra.apps.smoothing import Smoothed, smooth
from edge_stra.detections import Detect, Detection, RectXywh, check_picture
from edge_stra.faces import Expression, Predicts, check_task
from edge_stra.live.scene import Frame, Look, Stopwatch
from edge_stra.live.tracks import Tracker
from edge_stra.preprocess import to_input
from edge_stra.spec import UNSURE, DataError

ReadMasks = Callable[[NDArray[np.float32]], NDArray[np.float32]]
MAX_FACES = 16  # that are named, largest first: a crowd must not make the app late without bound


class ExpressionView:
    """Names the expression of each face (a `View` of `edge_stra.live.scene`).

    predictors: loaded models by the name that `Controls.model` chooses. detect: None takes the whole frame as one
    face. tau_s: the time constant of smoothing; 0 switches it off. readers: those that give a model's masks, for the
    overlay of mode attention. Raises ArtifactError where a model is of another task.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predicts],
        detect: Detect | None,
        tau_s: float,
        readers: Mapping[str, ReadMasks] | None = None,
    ) -> None:
        for predictor in predictors.values():
            check_task(predictor.spec, "fer")
        if not predictors:
            raise DataError("an expression app needs at least one model, but got none; give an artifact")
        self.predictors, self.detect, self.tau_s = dict(predictors), detect, tau_s
        self.readers = dict(readers or {})
        self.tracker = Tracker()
        self.states: dict[int, Smoothed] = {}
        self.model = ""

    def look(self, frame: Frame, settings: Mapping[str, Any]) -> Look:
        watch = Stopwatch()
        if settings["model"] != self.model:
            self.model = settings["model"]
            self.states = {}  # another model's probabilities do not average with these
        with watch("detect"):
            found = self.find(frame.rgb_u8)
            faces = found[:MAX_FACES]
        with watch("predict"):
            predictor = self.predictors[self.model]
            crops = [self.crop(frame.rgb_u8, face) for face in faces]
            raw = [expression_of(predictor, crop, face) for crop, face in zip(crops, faces, strict=True)]
        with watch("track"):
            numbers = self.tracker.update([face.box_xywh for face in faces], frame.time_s)
            steady = [self.steady(n, e, frame.time_s) for n, e in zip(numbers, raw, strict=True)]
            self.states = {n: state for n, state in self.states.items() if n in self.tracker.tracks}
        with watch("draw"):
            named = [named_above(e, settings["threshold"]) for e in steady]
            base = frame.rgb_u8
            if settings["privacy"]:
                base = hide(base, [*self.private_boxes(frame.time_s), *(face.box_xywh for face in found[MAX_FACES:])])
            if settings["attention"] and (reader := self.readers.get(self.model)):
                base = base.copy()
                for crop, face in zip(crops, faces, strict=True):
                    region = face.box_xywh if self.detect is None else square_around(face.box_xywh)
                    draw_masks(base, region, reader(to_input(crop, predictor.spec.input)))
            picture = draw_expressions(base, named)
        rows = [row_of(n, e) for n, e in zip(numbers, named, strict=True)]
        return Look(picture, rows, watch.stages_ms)

    def find(self, rgb_u8: NDArray[np.uint8]) -> list[Detection]:
        height, width = check_picture(rgb_u8)
        return [Detection((0, 0, width, height))] if self.detect is None else self.detect(rgb_u8)

    def private_boxes(self, time_s: float) -> list[RectXywh]:
        """Where faces are, and where those should be that the detector has just lost."""
        return [track.expected(time_s) for track in self.tracker.tracks.values()]

    def crop(self, rgb_u8: NDArray[np.uint8], face: Detection) -> NDArray[np.uint8]:
        return rgb_u8 if self.detect is None else crop_with_margin(rgb_u8, face.box_xywh)

    def steady(self, number: int, expression: Expression, time_s: float) -> Expression:
        """The expression with its track's probabilities averaged over time."""
        new = np.array(list(expression.probabilities.values()))
        state = self.states[number] = smooth(self.states.get(number), new, time_s, self.tau_s)
        labels = list(expression.probabilities)
        probabilities = dict(zip(labels, state.probabilities.tolist(), strict=True))
        return Expression(expression.face, probabilities, labels[int(state.probabilities.argmax())])


def named_above(expression: Expression, threshold: float) -> Expression:
    """The same, named "unsure" where no probability reaches the threshold."""
    if expression.probabilities[expression.label] >= threshold:
        return expression
    return Expression(expression.face, expression.probabilities, UNSURE)


def row_of(number: int, expression: Expression) -> dict[str, Any]:
    """One face of a scene, JSON-ready; `label` is null where the app is unsure."""
    return {
        "track": number,
        "box_xywh": list(expression.face.box_xywh),
        "score": expression.face.score,
        "label": None if expression.label == UNSURE else expression.label,
        "probability": round(max(expression.probabilities.values()), 4),
        "probabilities": {label: round(p, 4) for label, p in expression.probabilities.items()},
    }
