"""
Hold a method to questions whose answer is known
================================================

Metrics of photos disagree, since nobody knows the right map. The suite "truth" asks where the answer is known: four
pictures in a grid, of which one alone can hold the class; a network whose head sees one cell; scenes with the mask of
each digit; and a shuffled map, which tells whether a metric sees anything at all.
"""

import tempfile

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, methods, tiny
from camfn.evaluate import Suite, tables, truth, verify

names = ["grad_cam", "hires_cam", "layer_cam", "eigen_cam"]
few = Suite(tracks=("grid", "tiny"), grids=6, scenes=12)  # the defaults are version 1 of the protocol, for publication
with tempfile.TemporaryDirectory() as folder:  # yours stays: a run resumes, and others verify it
    (store,) = truth("tiny:cnn", names, folder, suite=few)
    (found,) = verify(folder, network=False)  # the numbers once more, from the maps that are saved
print(f"{found.numbers} numbers of {found.rows} rows recomputed; problems: {len(found.problems)}")

asked = ("gridpg", "difull", "twin", "own_share")
print(f"{'':12}", *(f"{name:>10}" for name in asked))
for method in [*names, "truth", "both", "center", "random"]:  # the last four are controls
    values = [[row.values[name] for row in store.rows if row.method == method and name in row.values] for name in asked]
    print(f"{method:12}", *(f"{sum(each) / len(each):10.2f}" for each in values))
# sphinx_gallery_thumbnail_cell = 1, 5

# %%
# The tables as the report has them, which a notebook shows as HTML.

tables(store, intervals=False)

# %%
# The first question as a picture: four scenes of one digit, and each method asked for the digit in the first cell.

world = tiny.scenes(4, digits=1, generator=torch.Generator().manual_seed(4))
grid = world.images.unflatten(0, (2, 2)).permute(2, 0, 3, 1, 4).reshape(1, 3, 128, 128)
pictures, captions, digit = [grid[0]], ["four scenes"], world.labels[0]
for name in names:
    cam = explainer(getattr(methods, name), tiny.load("cnn"), "body")(grid, digit).clamp(min=0)
    share = cam[0, :16, :16].sum() / cam.sum()
    pictures.append(image.overlay(grid, image.normalize(cam))[0])
    captions.append(f"{name}: {share:.0%} in its cell")
to_pil_image(image.montage(pictures, captions, columns=5, cell=(200, 200)))

# %%
# Eigen-CAM lights whatever is there. The other half of LayerCAM is spread thin, over the other digits. Grad-CAM fails
# at ``twin`` alone: one scene in two corners, of which the head sees one; a mean over places cannot know which.

# %%
# **If it looks wrong:** ``difull`` and ``twin`` have no number for a method that needs more than the activations and
# gradients of one layer, nor has ``own_share`` for a network that knows no digits. Six grids order nothing: read the
# intervals of ``camfn suite table FOLDER``. A method at the level of the control ``center`` or ``random`` found
# nothing.

# %%
# **Next:** :doc:`/suite` has the tracks and what they say of all methods. On the command line: ``camfn evaluate --suite
# truth --models tiny:cnn --methods cheap --out truth``. :ref:`sphx_glr_howto_plot_21_evaluate.py` on photos of yours.
