"""Metrics of heatmaps: pure functions of tensors, one number a sample.

Faithfulness metrics take a score, a function of images (B, C, *S) to (B,), as `scores_of(model, images)` makes it. The
test of the docs compares `__all__` with docs/metrics.md.
"""

from __future__ import annotations

from ._axioms import completeness_residual as completeness_residual
from ._axioms import input_invariance as input_invariance
from ._axioms import non_sensitivity as non_sensitivity
from ._common.likeness import spearman as spearman
from ._common.likeness import ssim as ssim
from ._common.once import shared as shared
from ._common.order import most_relevant as most_relevant
from ._common.regions import grid_cells as grid_cells
from ._common.regions import label_masks as label_masks
from ._common.regions import random_cells as random_cells
from ._common.regions import random_pixels as random_pixels
from ._common.regions import region_sums as region_sums
from ._common.scores import scores_of as scores_of
from ._complexity import adcc as adcc
from ._complexity import arcc as arcc
from ._complexity import coherency as coherency
from ._complexity import complexity as complexity
from ._complexity import effective_complexity as effective_complexity
from ._complexity import entropy as entropy
from ._complexity import sparseness as sparseness
from ._faithfulness.confidence import average_drop as average_drop
from ._faithfulness.confidence import average_gain as average_gain
from ._faithfulness.confidence import average_increase as average_increase
from ._faithfulness.confidence import confidence_change as confidence_change
from ._faithfulness.confidence import masked as masked
from ._faithfulness.curves import Curve as Curve
from ._faithfulness.curves import blur as blur
from ._faithfulness.curves import deletion as deletion
from ._faithfulness.curves import insertion as insertion
from ._faithfulness.curves import pixel_flipping as pixel_flipping
from ._faithfulness.curves import removal_curve as removal_curve
from ._faithfulness.drops import drops as drops
from ._faithfulness.drops import faithfulness_correlation as faithfulness_correlation
from ._faithfulness.drops import single_deletion as single_deletion
from ._faithfulness.fidelity import f_fidelity as f_fidelity
from ._faithfulness.groups import faithfulness_estimate as faithfulness_estimate
from ._faithfulness.groups import mean_color as mean_color
from ._faithfulness.groups import saco as saco
from ._faithfulness.impute import impute as impute
from ._faithfulness.infidelity import infidelity as infidelity
from ._faithfulness.infidelity import noise_drops as noise_drops
from ._faithfulness.monotone import monotonicity as monotonicity
from ._faithfulness.monotone import monotonicity_correlation as monotonicity_correlation
from ._faithfulness.pairs import consistency as consistency
from ._faithfulness.pairs import sufficiency as sufficiency
from ._faithfulness.region_curve import irof as irof
from ._faithfulness.region_curve import region_curve as region_curve
from ._faithfulness.road import road as road
from ._faithfulness.road import road_combined as road_combined
from ._faithfulness.sensitivity_n import sensitivity_n as sensitivity_n
from ._faithfulness.soundness import completeness as completeness
from ._faithfulness.soundness import soundness as soundness
from ._faithfulness.trace import Ceiling as Ceiling
from ._faithfulness.trace import trace as trace
from ._faithfulness.trace import trace_ceiling as trace_ceiling
from ._localization.boxes import box_masks as box_masks
from ._localization.boxes import boxes_in_pixels as boxes_in_pixels
from ._localization.overlap import box_ious as box_ious
from ._localization.overlap import energy_in_box as energy_in_box
from ._localization.overlap import iou as iou
from ._localization.overlap import max_box_acc as max_box_acc
from ._localization.overlap import pointing_game as pointing_game
from ._localization.overlap import pxap as pxap
from ._localization.ranking import rank_accuracy as rank_accuracy
from ._localization.ranking import roc_auc as roc_auc
from ._randomization.redrawn import efficient_randomization as efficient_randomization
from ._randomization.redrawn import random_logit as random_logit
from ._randomization.sanity import Cascade as Cascade
from ._randomization.sanity import randomization as randomization
from ._randomization.sanity import randomized as randomized
from ._randomization.sanity import resampled as resampled
from ._robustness.continuity import continuity as continuity
from ._robustness.sensitivity import max_sensitivity as max_sensitivity
from ._robustness.stability import local_lipschitz as local_lipschitz
from ._robustness.stability import relative_input_stability as relative_input_stability
from ._robustness.stability import relative_output_stability as relative_output_stability
from ._robustness.stability import relative_representation_stability as relative_representation_stability

__all__ = [  # noqa: RUF022  grouped by what a metric is about, which is the order of the docs
    "scores_of",
    "shared",
    "masked",
    "most_relevant",
    "average_drop",
    "average_increase",
    "average_gain",
    "confidence_change",
    "deletion",
    "insertion",
    "pixel_flipping",
    "removal_curve",
    "blur",
    "Curve",
    "road",
    "road_combined",
    "impute",
    "drops",
    "single_deletion",
    "faithfulness_correlation",
    "sensitivity_n",
    "non_sensitivity",
    "saco",
    "faithfulness_estimate",
    "monotonicity",
    "monotonicity_correlation",
    "region_curve",
    "irof",
    "trace",
    "trace_ceiling",
    "Ceiling",
    "f_fidelity",
    "completeness",
    "soundness",
    "grid_cells",
    "random_cells",
    "random_pixels",
    "label_masks",
    "region_sums",
    "mean_color",
    "infidelity",
    "noise_drops",
    "completeness_residual",
    "input_invariance",
    "max_sensitivity",
    "local_lipschitz",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "continuity",
    "complexity",
    "entropy",
    "sparseness",
    "effective_complexity",
    "coherency",
    "adcc",
    "arcc",
    "pointing_game",
    "energy_in_box",
    "rank_accuracy",
    "iou",
    "box_ious",
    "max_box_acc",
    "pxap",
    "roc_auc",
    "box_masks",
    "boxes_in_pixels",
    "randomization",
    "efficient_randomization",
    "random_logit",
    "sufficiency",
    "consistency",
    "randomized",
    "resampled",
    "spearman",
    "ssim",
    "Cascade",
]
