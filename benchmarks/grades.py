"""The grade of every metric that has a page, by the track `grade` of the suite: the table of docs/metrics.md.

Ten minutes for `tiny:cnn`, hours for `lite0`; called again it goes on where it was left. It writes
docs/metric-grades.csv and the table between two marks of docs/metrics.md.

python -m benchmarks.grades [FOLDER [MODEL ...]]
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camfn import metrics
from camfn.evaluate import METRICS, Suite, metric, truth
from camfn.evaluate._suite.grades import Grade, grades_of

DOCS = Path(__file__).parents[1] / "docs"
FILE, PAGE = DOCS / "metric-grades.csv", DOCS / "metrics.md"
BEGIN, END = "<!-- grades: python -m benchmarks.grades -->", "<!-- end of grades -->"
GROUPS, CELLS, NOISY = 16, 7, 2
MODELS = ("tiny:cnn",)

SUITES = {"single": "single_deletion", "subsets": "faithfulness_correlation", "saco": "saco", "ceiling": "trace"}
"""Measures of the suite that are a metric by another name."""

NOT_ONE_MAP = {
    "max_box_acc": "one number of a set of photos",
    "sufficiency": "compares the maps of many photos",
    "consistency": "compares the maps of many photos",
    "spearman": "compares two maps",
    "ssim": "compares two maps",
    "road": "half of `road_combined`",
    "confidence_change": "`average_drop` before it is cut at 0",
}
"""Metrics without a grade, and why."""


def cells_of(images: Tensor) -> Tensor:
    """Cut the picture into 49 cells."""
    return metrics.grid_cells(images.shape[2:], CELLS)


def superpixels(images: Tensor) -> Tensor:
    """Cut a picture by SLIC, (n, H, W)."""
    from skimage.segmentation import slic

    photo = images[0].movedim(0, -1).double()
    scaled = (photo - photo.amin()) / (photo.amax() - photo.amin()).clamp(min=1e-9)
    return metrics.label_masks(torch.as_tensor(slic(scaled.numpy(), n_segments=36, start_label=0)))


def sensitivity_n(heatmap: Tensor, images: Tensor, score: Any, generator: torch.Generator) -> Tensor:
    """Correlate sums with drops over sets of 5, 12 and 24 of 49 cells."""
    return metrics.sensitivity_n(
        score, images, heatmap, sizes=(5, 12, 24), masks=cells_of(images), samples=20, generator=generator
    ).average


def non_sensitivity(heatmap: Tensor, images: Tensor, score: Any) -> Tensor:
    """Count the cells of which one of map and score says that they do not matter."""
    cells = cells_of(images)
    return metrics.non_sensitivity(heatmap, metrics.drops(score, images, cells), cells, threshold=0.05)


def faithfulness_estimate(heatmap: Tensor, images: Tensor, score: Any) -> Tensor:
    """Correlate the sums over 16 groups with the drops."""
    return metrics.faithfulness_estimate(score, images, heatmap, groups=GROUPS)


def monotonicity(heatmap: Tensor, images: Tensor, score: Any) -> Tensor:
    """Say whether the score never falls while pixels come back."""
    return metrics.monotonicity(score, images, heatmap, step=1 / GROUPS)


def monotonicity_correlation(heatmap: Tensor, images: Tensor, score: Any, generator: torch.Generator) -> Tensor:
    """Correlate the ranks of magnitudes with those of changes."""
    return metrics.monotonicity_correlation(score, images, heatmap, groups=GROUPS, samples=2, generator=generator)


def irof(heatmap: Tensor, images: Tensor, score: Any) -> Tensor:
    """Measure the area over the curve of superpixels."""
    return metrics.irof(score, images, heatmap, superpixels(images))


def f_fidelity(heatmap: Tensor, images: Tensor, score: Any, generator: torch.Generator) -> Tensor:
    """Measure F-Fidelity without further training."""
    return metrics.f_fidelity(score, images, heatmap, shares=(0.1, 0.3, 0.5, 0.7), samples=5, generator=generator).auc


def completeness(heatmap: Tensor, images: Tensor, score: Any) -> Tensor:
    """Measure the drop without the brightest values."""
    return metrics.completeness(score, images, heatmap, values=(0.2, 0.4, 0.6, 0.8), baseline=0.0).average


def soundness(heatmap: Tensor, images: Tensor, score: Any) -> Tensor:
    """Measure the share of the mass that raises the score."""
    return metrics.soundness(score, images, heatmap, shares=(0.1, 0.3, 0.5, 0.7), baseline=0.0).average


def completeness_residual(cam: Tensor, images: Tensor, score: Any) -> Tensor:
    """Measure how far the sum is from the change of the score, either way."""
    return metrics.completeness_residual(score, images, cam).abs()


def input_invariance(explanation: Any) -> Tensor:
    """Measure how far the map moves with the images."""
    return metrics.input_invariance(explanation.explain, explanation.model, explanation.images)


def local_lipschitz(explain: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Measure how far the map moves for each unit of noise."""
    return metrics.local_lipschitz(explain, images, samples=NOISY, generator=generator)


def relative_input_stability(explain: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Measure how far the map moves for each per cent of the image."""
    return metrics.relative_input_stability(explain, images, samples=NOISY, generator=generator)


def relative_output_stability(explain: Any, images: Tensor, model: Any, generator: torch.Generator) -> Tensor:
    """Measure how far the map moves for each unit of the logits."""
    return metrics.relative_output_stability(explain, images, model, samples=NOISY, generator=generator)


def relative_representation_stability(explain: Any, images: Tensor, model: Any, generator: torch.Generator) -> Tensor:
    """Measure how far the map moves for each per cent of the logits, as the last layer."""
    return metrics.relative_representation_stability(explain, images, model, samples=NOISY, generator=generator)


def continuity(explain: Any, images: Tensor) -> Tensor:
    """Measure how far the map moves when the image is shifted."""
    return metrics.continuity(explain, images, shifts=(-2, 2))


def effective_complexity(heatmap: Tensor) -> Tensor:
    """Count the pixels above a tenth of the maximum."""
    return metrics.effective_complexity(heatmap, threshold=0.1)


def rank_accuracy(heatmap: Tensor, boxes: Tensor) -> Tensor:
    """Measure the share of the top pixels in the boxes."""
    return metrics.rank_accuracy(heatmap, [boxes])


def roc_auc(heatmap: Tensor, boxes: Tensor) -> Tensor:
    """Measure how often a pixel in the boxes is above one outside."""
    return metrics.roc_auc(heatmap, metrics.box_masks([boxes], heatmap.shape[1:]))


def efficient_randomization(explanation: Any, generator: torch.Generator) -> Tensor:
    """Measure how much more complex the map of a random network is."""
    explain = lambda net: explanation.explain(net, explanation.images)  # noqa: E731
    return metrics.efficient_randomization(explain, explanation.model, generator=generator)


def random_logit(explanation: Any, generator: torch.Generator) -> Tensor:
    """Compare the map with that of another class: of a network whose classes are turned."""
    count = explanation.seen.outputs.shape[1]

    def explain(classes: Tensor) -> Tensor:
        turned = deepcopy(explanation.model)
        by = explanation.seen.index - int(classes[0])
        turned.register_forward_hook(lambda module, args, outputs: outputs.roll(by, 1))
        found: Tensor = explanation.explain(turned, explanation.images)
        return found

    return metrics.random_logit(explain, torch.tensor([explanation.seen.index]), count, generator=generator)


HIGHER: tuple[Callable[..., Tensor], ...] = (
    sensitivity_n, faithfulness_estimate, monotonicity, monotonicity_correlation, irof, f_fidelity, completeness,
    soundness, rank_accuracy, roc_auc, efficient_randomization,
)  # fmt: skip
LOWER: tuple[Callable[..., Tensor], ...] = (
    non_sensitivity, completeness_residual, input_invariance, local_lipschitz, relative_input_stability,
    relative_output_stability, relative_representation_stability, continuity, random_logit,
)  # fmt: skip
NEITHER: tuple[Callable[..., Tensor], ...] = (effective_complexity,)


def asked() -> list[Any]:
    """All metrics of one map: those of an evaluation, and the others."""
    own = [(HIGHER, "higher"), (LOWER, "lower"), (NEITHER, "none")]
    return [*METRICS, *(metric(each, better=better) for some, better in own for each in some)]  # type: ignore[arg-type]


def graded(model: str, folder: Path) -> list[Grade]:
    """Grade all metrics on one model, the map of Grad-CAM shuffled."""
    (store,) = truth(model, "grad_cam", folder, suite=Suite(tracks=("grade",)), metrics=asked())
    for row in store.rows:
        if row.problem:
            print(f"{model} {row.photo} {row.method}: {row.problem}", file=sys.stderr)
    return [grade for grade in grades_of(store) if grade.base == "grad_cam"]


def name_of(grade: Grade) -> str:
    """Return the name that the docs call a metric by."""
    plain = re.sub(r":better=.*", "", grade.name)
    return SUITES.get(plain, plain)


def table(found: Sequence[tuple[str, Grade]]) -> str:
    """Write the grades as Markdown, those that do not tell a map from noise in italics."""
    models = list(dict.fromkeys(model for model, _ in found))
    at = {(model, name_of(grade)): grade for model, grade in found}
    names = [name for name in dict.fromkeys(name_of(grade) for _, grade in found) if hasattr(metrics, name)]
    heads = "".join(f" {model}: one photo | mean of ten | whole less shuffled |" for model in models)
    lines = ["| metric |" + heads, "|---|" + "---|---|---|" * len(models)]
    for name in names:
        cells = [at.get((model, name)) for model in models]
        tells = any(grade is not None and grade.tells for grade in cells)
        shown = " | ".join("| |" if g is None else f"{_two(g.one)} | {_two(g.mean)} | {_span(g)}" for g in cells)
        lines.append(f"| {name if tells else f'*{name}*'} | {shown} |")
    return "\n".join(lines)


def _two(number: float) -> str:
    """Write two digits, 0.00 without a sign."""
    return f"{round(number, 2) + 0.0:.2f}"


def _span(grade: Grade) -> str:
    """Write the interval of the difference; what rounding leaves is 0."""
    ends = [0.0 if abs(end) <= grade.rounding else end for end in (grade.low, grade.high)]
    return f"[{ends[0]:.3g}, {ends[1]:.3g}]"


def main() -> None:
    """Grade, and write the CSV and the table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "grades")
    models = tuple(sys.argv[2:]) or MODELS
    found = [(model, grade) for model in models for grade in graded(model, folder)]
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "metric", "one", "mean_of_10", "low", "high", "photos", "tells"))
        for model, g in found:
            numbers = (f"{g.one:.2f}", f"{g.mean:.2f}", f"{g.low:.3g}", f"{g.high:.3g}", g.photos, int(g.tells))
            writer.writerow((model, name_of(g), *numbers))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
