"""
See what kinds of methods there are, and which are one map
==========================================================

All methods of a layer are one sum over channels, and differ in the weights. So many are equal on many networks: here
each method explains one image at one layer, and those whose maps agree to the last digits share a picture.
"""

from functools import partial

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import catalogue, explainer, image, layers, methods, tiny

net = tiny.load("cnn")
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
digit = int(world.labels[0, 0])

kinds = {
    "gradients": [
        methods.grad_cam, methods.hires_cam, methods.elementwise_grad_cam, methods.xgrad_cam, methods.layer_cam,
        methods.grad_cam_plusplus, methods.seg_xres_cam, methods.bag_cam, methods.odam, methods.fd_cam,
    ],
    "the rest of the network": [
        methods.cam, methods.ablation_cam, methods.lift_cam, methods.shapley_cam, methods.recipro_cam,
    ],
    "masks made of channels": [
        methods.score_cam, methods.ss_cam, methods.is_cam, methods.poly_cam, methods.group_cam, methods.opti_cam,
        methods.vit_cx,
    ],
    "principal components": [
        methods.eigen_cam, methods.eigen_grad_cam, methods.seg_eigen_cam, methods.kpca_cam, methods.fem,
    ],
    "no network": [methods.sobel_edges, methods.random_cam],
}  # fmt: skip
seen = []  # each map with the names of all methods that make it
for listed in kinds.values():
    for method in listed:
        row = catalogue.info_of(method)  # of a function of yours too, read from its signature
        options = {"generator": torch.Generator().manual_seed(0)} if row.draws else {}
        if method in (methods.score_cam, methods.ss_cam, methods.is_cam, methods.poly_cam):
            options["top_k"] = 0.2  # a fifth of the channels, to save time
        cam = explainer(partial(method, **options), net, "body")(world.images, digit)
        cam = image.upsample(cam / cam.abs().max(), (64, 64))
        equal = [names for other, names in seen if torch.allclose(other, cam, atol=1e-5)]
        if equal:
            equal[0].append(row.name)
        else:
            seen.append((cam, [row.name]))
for kind, listed in kinds.items():
    print(f"{kind}: {', '.join(method.__name__ for method in listed)}")

never = [row.name for row in catalogue.METHODS if row.kind == "layer" and not row.explains_class]
print("never ask for the class:", ", ".join(never))
print("what score_cam needs:", *catalogue.find("score_cam").needs)
print("the linear head that cam reads:", layers.head(net, "body", world.images).name)

captions = [" = ".join(names) for _, names in seen]
pictures = [image.overlay(world.images, image.normalize(cam))[0] for cam, _ in seen]
to_pil_image(
    image.montage([world.images[0], *pictures], [f"where is the {digit}?", *captions], columns=6, cell=(170, 170))
)
# sphinx_gallery_thumbnail_cell = 1, 6

# %%
# Each map is divided by its largest value, for some methods differ in a factor alone. On a linear head behind a mean
# over places, as here, Grad-CAM and its kin are CAM. Behind another head, or at an earlier layer, they part.

# %%
# **If it looks wrong:** A method that lights both digits never asks for the class, or takes what is active for what
# matters. ``catalogue.find("fem").explains_class`` says which never ask. A method that raises an error on your network
# says what it needs: ``cam`` a linear head, ``group_cam`` its inputs as an image.

# %%
# **Next:** :doc:`/methods` has a page for each, and :doc:`/concepts` which maps are equal by algebra.
# :ref:`sphx_glr_howto_plot_29_known_answers.py` ranks them; ``camfn compare photo.jpg --methods cheap`` draws yours.
