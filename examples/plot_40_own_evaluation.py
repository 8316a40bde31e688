"""
Evaluate photo by photo, and write the tables of a paper
========================================================

``evaluate.run`` does it all. Its parts are public: a photo with its box, a case (model, layer, method), a row of
numbers, a ranking, and tables as CSV, Markdown and LaTeX.
"""

import tempfile
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import evaluate, image, tiny, zoo

folder = Path(tempfile.mkdtemp())
world = tiny.scenes(5, digits=1, generator=torch.Generator().manual_seed(2))
lines = ["path,class,x0,y0,x1,y1"]
for number, (scene, label, box) in enumerate(zip(world.images, world.labels[:, 0], world.boxes, strict=True)):
    to_pil_image(scene).save(folder / f"{number}.png")
    lines.append(f"{number}.png,{int(label)},{','.join(str(round(side)) for side in box[0].tolist())}")
(folder / "photos.csv").write_text("\n".join(lines))

found = evaluate.read_records(folder / "photos.csv")  # photos with boxes, and the lines that it refuses
loaded = zoo.load("tiny:cnn")
cases = [evaluate.Case("tiny:cnn", "body", method) for method in ("grad_cam", "layer_cam", "eigen_cam")]
protocol = evaluate.Protocol(metrics=("energy_in_box", "insertion"))
shared = evaluate.Shared()  # what photos and cases have in common is made once
rows = [row for photo in found.photos for row in evaluate.evaluate_photo(photo, cases, loaded, protocol, shared=shared)]

ranking = evaluate.rank(rows, "tiny:cnn", by="energy_in_box")
for standing in ranking:
    best = standing.estimates["energy_in_box"]
    print(f"{standing.case!s:28} {best.value:.2f} [{best.low:.2f}, {best.high:.2f}]")
for pair in evaluate.differences(rows, "tiny:cnn", "energy_in_box"):  # photo by photo, on the same photos
    print(f"{pair.first} less {pair.second}: {pair.value:+.2f}, {pair.verdict}")
evaluate.write_table(ranking, folder / "table.tex")
whole = evaluate.write_ranks(
    rows, "tiny:cnn", folder / "ranks.svg", by="energy_in_box"
)  # Friedman's test and a picture
print((folder / "table.tex").read_text().count("\n"), f"lines of LaTeX; p = {whole.p:.3f} that all are alike")

print("costly methods in the group capped:", ", ".join(f"{name}:{words}" for name, words in evaluate.CAPPED.items()))
center = evaluate.center(64, 64)  # the map that every method must beat
print(
    sorted(evaluate.METRICS)[:4], "...,", sum(photo.label is not None for photo in evaluate.builtin_photos()), "photos"
)
pictures = [image.overlay(world.images[:1], image.normalize(row.cam[None]))[0] for row in rows[:3]]
pictures.append(image.overlay(world.images[:1], center)[0])
to_pil_image(image.montage(pictures, [*(row.method for row in rows[:3]), "center"], columns=4, cell=(200, 200)))
# sphinx_gallery_thumbnail_cell = 0, 4

# %%
# A store keeps rows and maps in a folder, from which tables and a page are written again.

store = evaluate.run(found.photos, cases, folder / "results", protocol=protocol)
print([path.name for path in evaluate.write_tables(store)])
print(evaluate.write_report(store, found.photos).name)

# %%
# **If it looks wrong:** Intervals that overlap are no tie: methods are compared on the same photos, see
# ``evaluate.differences``. Lines that could not be read stand in ``found.refused``. The word ``capped`` for methods
# takes costly ones with fewer samples.

# %%
# **Next:** :doc:`/evaluation`, :doc:`/records`; :ref:`sphx_glr_howto_plot_21_evaluate.py`.
