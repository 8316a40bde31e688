"""One row of an evaluation: what was measured of one photo and one case, or why it was not."""

# tested in tests/evaluate/measures/test_core.py

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Kind = Literal["", "refusal", "accident"]
"""Why numbers are missing: camfn refused, which is final; or an accident, which is tried again."""


class Row(NamedTuple):
    """The numbers of one photo and one case; a photo that cannot be read has one row without a case.

    Attributes:
        photo: name of the photo.
        case: `str(Case)`; empty for a photo that cannot be read.
        layer: name of the layer that the method explains.
        target: index of the class that the method explains.
        probability: the model's probability of that class.
        forwards: operations of the explanation over those of one forward; 1 is one forward.
        seconds: time of the explanation.
        problem: why numbers are missing, or why the map shows nothing; empty if all is well.
        values: metric to number, without the metrics that could not be measured.
        vectors: metric to the vector behind its number: curves, and the IoUs of MaxBoxAcc.
        cam: the raw map, (h, w), or None; `Store.cam` reads the map of a stored row.
        kind: "refusal" if a `CamfnError` says why numbers are missing: this method does not fit this model. "accident"
            for any other error: memory that ran out, a lost worker, a bug of a function of yours. Otherwise empty.
        tries: how often this row was tried; `run` tries an accident three times.
        traceback: of an accident.
        model: name of the model.
        method: the method with its options.
        map: the name of the map's file in the folder `maps`.

    Example:
        >>> Row("cat.png", "lite0 auto grad_cam", values={"iou": 0.5}).key
        ('cat.png', 'lite0 auto grad_cam')
    """

    photo: str
    case: str = ""
    layer: str = ""
    target: int | None = None
    probability: float | None = None
    forwards: float | None = None
    seconds: float | None = None
    problem: str = ""
    values: dict[str, float] = {}  # noqa: RUF012  never written to
    vectors: dict[str, list[float]] = {}  # noqa: RUF012
    cam: Tensor | None = None
    kind: Kind = ""
    tries: int = 1
    traceback: str = ""
    model: str = ""
    method: str = ""
    map: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The photo and the case, which no other row has."""
        return self.photo, self.case
