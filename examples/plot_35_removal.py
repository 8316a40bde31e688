"""
Ask whether a map ranks what its removal costs
==============================================

Faithfulness has many measures. All remove something and look at the score; they part in what they remove (pixels in
order, single cells, random sets), in what stands there instead (black, blur, an imputation), and in whether order or
size counts. Read several, beside a map that knows nothing.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, metrics, tiny
from camfn.methods import grad_cam, random_cam
from camfn.targets import class_score

net = tiny.load("cnn")
world = tiny.scenes(4, generator=torch.Generator().manual_seed(0))
photos, digits = world.images, world.labels[:, 0]
score = metrics.shared(metrics.scores_of(net, photos, class_score(digits)))  # a batch that comes again runs once
cam = explainer(grad_cam, net, "body")(photos, digits)
noise = random_cam(cam[:, None], generator=torch.Generator().manual_seed(0))
cells = metrics.grid_cells((64, 64), 4)  # 16 masks of 16 x 16 pixels
regions = metrics.label_masks(image.superpixels(photos, count=16)[0])  # or masks of your own
sets = metrics.random_cells(cells, 4, 40, generator=torch.Generator().manual_seed(0))  # 40 sets of 4 cells
pixels = metrics.random_pixels((64, 64), 400, 40, generator=torch.Generator().manual_seed(0))
lost, lost_by_sets = metrics.drops(score, photos, cells), metrics.drops(score, photos, sets)
noisy = 0.2 * torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
lost_by_noise = metrics.noise_drops(score, photos, noisy)  # of the photos, once for all maps
best = metrics.trace_ceiling(score, photos, cells, generator=torch.Generator().manual_seed(0))


def measured(cam):
    """All of them, of maps that are scaled to [0, 1] and to the size of the photos; a mean over the photos."""
    heat, seed = image.upsample(image.normalize(cam), (64, 64)), torch.Generator().manual_seed
    before, after = score(photos), score(metrics.masked(photos, heat))
    hidden = photos * (1 - metrics.most_relevant(heat, 0.1)[:, None].float())
    everywhere = {"score": score, "images": photos, "heatmap": heat}
    found = {
        "loss of the top tenth": before - score(hidden),
        "the same, imputed": before - score(metrics.impute(photos, metrics.most_relevant(heat, 0.1))),
        "deletion, blurred": metrics.deletion(**everywhere, baseline=metrics.blur, step=0.1).auc,
        "deletion, mean color": metrics.deletion(**everywhere, baseline=metrics.mean_color, step=0.1).auc,
        "removal_curve": metrics.removal_curve(**everywhere, step=0.1).auc,
        "pixel_flipping": metrics.pixel_flipping(**everywhere, step=0.1).aopc,
        "region_curve": metrics.region_curve(**everywhere, masks=regions).auc,
        "irof": metrics.irof(**everywhere, masks=regions),
        "confidence_change": metrics.confidence_change(before, after),
        "average_increase": metrics.average_increase(before, after),
        "single_deletion": metrics.single_deletion(heat, lost, cells),
        "faithfulness_correlation": metrics.faithfulness_correlation(heat, lost_by_sets, sets),
        "the same on pixels": metrics.faithfulness_correlation(heat, metrics.drops(score, photos, pixels), pixels),
        "sensitivity_n": metrics.sensitivity_n(
            **everywhere, sizes=(2, 4, 8), masks=cells, samples=40, generator=seed(0)
        ).average,
        "non_sensitivity": metrics.non_sensitivity(heat, lost, cells, threshold=0.01),
        "saco": metrics.saco(**everywhere),
        "faithfulness_estimate": metrics.faithfulness_estimate(**everywhere, groups=16),
        "monotonicity": metrics.monotonicity(**everywhere, step=0.1),
        "monotonicity_correlation": metrics.monotonicity_correlation(
            **everywhere, groups=16, samples=4, generator=seed(0)
        ),
        "trace": metrics.trace(**everywhere, masks=cells, ceiling=best),
        "f_fidelity": metrics.f_fidelity(**everywhere, samples=5, generator=seed(0)).average,
        "completeness": metrics.completeness(**everywhere).average,
        "soundness": metrics.soundness(**everywhere).average,
        "infidelity": metrics.infidelity(score, photos, heat, noise=noisy, drops=lost_by_noise),
        "completeness_residual": metrics.completeness_residual(score, photos, heat),
    }
    return {name: float(values.float().mean()) for name, values in found.items()}


columns = [measured(cam), measured(noise)]
print(f"{'':26}{'grad_cam':>9}{'noise':>9}")
for name in columns[0]:
    print(f"{name:26}{columns[0][name]:9.2f}{columns[1][name]:9.2f}")

heats = [image.upsample(image.normalize(each), (64, 64)) for each in (cam, noise)]
pictures = [image.overlay(photos, heat)[0] for heat in heats]
sums = metrics.region_sums(heats[0], cells)[0].reshape(1, 4, 4)  # what the map says of each cell
costs = lost[0].reshape(1, 4, 4)  # what its removal costs
pictures += [image.overlay(photos[:1], image.normalize(each))[0] for each in (sums, costs)]
to_pil_image(
    image.montage(
        pictures,
        ["grad_cam", "noise", "what it says of each cell", "what each cell's removal costs"],
        columns=4,
        cell=(220, 220),
    )
)
# sphinx_gallery_thumbnail_cell = 3, 4

# %%
# **If it looks wrong:** Rows whose two numbers are alike cannot tell this map from noise on four images. Which way is
# better differs: :doc:`/metrics` has a column for it. Black squares are shapes too; where a network reads them, impute.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_29_known_answers.py` grades the measures; :doc:`/metrics` leads to a page each,
# which says first what the measure cannot say. ``camfn evaluate photos/ --metrics saco,trace`` on the command line.
