"""
Ask whether a map is stable, simple and consistent
==================================================

Two photos that look alike should have maps that look alike, and photos of one class maps of one kind. None of this says
that a map is right: a constant map is as stable as can be.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, metrics, observe, tiny
from camfn.methods import eigen_cam, hires_cam, layer_cam

net = tiny.load("cnn")
world = tiny.scenes(12, digits=1, generator=torch.Generator().manual_seed(0))
photos, digits = world.images[:2], world.labels[:2, 0]


def highest(maps):
    """The places where the map is highest, in nine parts: what `consistency` compares."""
    return torch.nn.functional.adaptive_max_pool2d(maps, 3).flatten(1).argmax(1)


def measured(method):
    """Numbers of one method, means over the photos."""
    explain = lambda images: explainer(method, net, "body")(images, digits)
    of_net = lambda model, images: explainer(method, model, "body")(images, digits)
    inner = observe(net, "body.2")
    draw = lambda: {"samples": 5, "generator": torch.Generator().manual_seed(0)}  # the same noise for each
    heat = image.upsample(image.normalize(explain(photos)), (64, 64))
    blurred = image.upsample(image.normalize(explain(metrics.blur(photos, 3, 0.5))), (64, 64))
    many = image.normalize(explainer(method, net, "body")(world.images, world.labels[:, 0]))
    return {
        "max_sensitivity": metrics.max_sensitivity(explain, photos, **draw()),
        "local_lipschitz": metrics.local_lipschitz(explain, photos, **draw()),
        "relative_input_stability": metrics.relative_input_stability(explain, photos, outputs=net, **draw()),
        "relative_output_stability": metrics.relative_output_stability(explain, photos, net, **draw()),
        "relative_representation_stability": metrics.relative_representation_stability(
            explain, photos, lambda x: inner(x)[0], outputs=net, **draw()
        ),
        "continuity under shifts": metrics.continuity(explain, photos, shifts=(-4, 4)),
        "input_invariance": metrics.input_invariance(of_net, net, photos),
        "spearman with a blurred photo": metrics.spearman(heat, blurred),
        "ssim with a blurred photo": metrics.ssim(heat, blurred),
        "sparseness": metrics.sparseness(heat),
        "effective_complexity": metrics.effective_complexity(heat, threshold=0.1),
        "sufficiency": metrics.sufficiency(many, world.labels[:, 0]),
        "consistency": metrics.consistency(many, world.labels[:, 0], discretize=highest),
    }


found = {method.__name__: measured(method) for method in (hires_cam, layer_cam, eigen_cam)}
print(f"{'':34}", *(f"{name:>10}" for name in found))
for name in found["hires_cam"]:
    print(f"{name:34}", *(f"{float(values[name].float().mean()):10.2g}" for values in found.values()))

noisy = photos[:1] + 0.2 * torch.randn(photos[:1].shape, generator=torch.Generator().manual_seed(0))
pictures = [photos[0], noisy[0].clamp(0, 1)]
for method in (hires_cam, eigen_cam):
    for seen in (photos[:1], noisy):
        cam = explainer(method, net, "body")(seen, digits[:1])
        pictures.append(image.overlay(seen.clamp(0, 1), image.normalize(cam))[0])
captions = ["the image", "with noise", "hires_cam", "with noise", "eigen_cam", "with noise"]
to_pil_image(image.montage(pictures, captions, columns=6, cell=(170, 170)))
# sphinx_gallery_thumbnail_cell = 3, 6

# %%
# **If it looks wrong:** Noise changes what the network sees: where its answer changes, so may the map, and the output
# stability divides by that change. Ranges differ by method; compare methods on the same noise, not numbers of papers.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_14_steadier.py` makes a map steadier; :doc:`/metrics` says what each number means;
# :ref:`sphx_glr_howto_plot_37_depends_on_weights.py`.
