"""
Find the best method for my photos and my network
=================================================

``evaluate`` crosses models, methods, layers and metrics over photos, with intervals and two baselines that never ask
the network. ``tune`` chooses on one half of the photos and reports on the other.
"""

import tempfile
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, tiny
from camfn.evaluate import Protocol, cases, rank, read_photos, run, tune
from camfn.methods import grad_cam

folder = Path(tempfile.mkdtemp())
world = tiny.scenes(6, digits=1, generator=torch.Generator().manual_seed(2))
for number, (scene, label) in enumerate(zip(world.images, world.labels[:, 0].tolist(), strict=True)):
    (folder / "photos" / str(label)).mkdir(parents=True, exist_ok=True)  # photos/CLASS/PHOTO.png
    to_pil_image(scene).save(folder / "photos" / str(label) / f"{number}.png")

listed = cases(["tiny:cnn"], "grad_cam, layer_cam, eigen_cam, random_cam")
protocol = Protocol(metrics=("insertion", "deletion", "average_drop"))
store = run(read_photos(str(folder / "photos")), listed, folder / "results", protocol=protocol)
standings = rank(store.rows, "tiny:cnn", by="insertion")
for standing in standings:
    numbers = "  ".join(f"{name} {estimate.value:.3f}" for name, estimate in standing.estimates.items())
    print(f"{standing.case!s:32} {numbers}")

best = explainer(grad_cam, tiny.load("cnn"), "body")(world.images, world.labels[:, 0])
to_pil_image(image.montage(list(image.overlay(world.images, image.normalize(best))), columns=6, cell=(130, 130)))
# sphinx_gallery_thumbnail_cell = 0, 6

# %%
# ``tune`` takes methods, layers and options together, and measures its choice on photos that it did not choose on.

candidates = cases(["tiny:cnn"], "grad_cam, layer_cam", layers="body, body.1")
tuned = tune(read_photos(str(folder / "photos")), candidates, "insertion", folder / "tuned")
print(tuned.case, f"insertion {tuned.held_out.value:.3f} on {len(tuned.photos)} photos held out")

# %%
# **If it looks wrong:** Six photos cannot rank methods: read the intervals, and take a few hundred. Rows of one table
# must have one resolution, for ROAD and insertion favor blurred maps.

# %%
# **Next:** :doc:`/evaluation` has the built-in leaderboard. On the command line: ``camfn evaluate photos/ --models
# lite0 --methods cheap --out results``.
