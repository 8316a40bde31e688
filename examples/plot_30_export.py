"""
Ship the map with the model: one ONNX file, one web page
========================================================

``export.onnx`` puts the map inside of the model: one file gives logits and map, to onnxruntime in any language, with no
PyTorch. ``export.page`` puts such files into a page that explains photos in the browser of someone without Python.
"""

import json
import tempfile
from pathlib import Path

import onnxruntime
import torch
from skimage.data import chelsea

from camfn import CamfnError, explainer, export, image, zoo
from camfn.methods import grad_cam

loaded = zoo.load("lite0")
photo = image.to_pil(chelsea())
images = loaded.preprocess(photo)[None]
explain = explainer(grad_cam, loaded.model, "bn2")

file = Path(tempfile.mkdtemp(), "lite0.onnx")
about = {"model": "lite0", "classes": loaded.classes, "preprocessing": loaded.recipe}
told = export.onnx(explain, images, file, heatmap=(224, 224), **about)  # it runs the file before it writes it
worst = max(told["verified"]["differences"].values())
print(f"{file.stat().st_size / 1e6:.0f} MB, within {worst:.0e} of eager for batches of {told['verified']['batches']}")
# sphinx_gallery_thumbnail_cell = 2, 5

# %%
# Now as a server would, with onnxruntime alone: two classes of one photo, the same as the eager maps.

session = onnxruntime.InferenceSession(file)
facts = json.loads(session.get_modelmeta().custom_metadata_map["camfn"])
view = image.read(loaded.view(photo))
pictures, captions = [view], ["the photo"]
for name in ("Egyptian cat", "tabby"):
    target = facts["classes"].index(name)
    _, cam, heatmap = session.run(None, {"images": images.numpy(), "target": [target]})
    eager = explain(images, target)
    apart = abs(cam - eager.numpy()).max() / eager.abs().max()
    print(f"{name}: map {cam.shape}, heatmap {heatmap.shape}, {apart:.0e} of the largest value from eager")
    pictures += [image.overlay(view, image.normalize(eager))[0], image.overlay(view, torch.from_numpy(heatmap))[0]]
    captions += [f"{name}, eager", f"{name}, onnxruntime"]
image.to_pil(image.montage(pictures, captions, columns=5, cell=(200, 200)))

# %%
# With PyTorch at hand, ``export.load`` runs the file and names its outputs.

deployed = export.load(file)
print({name: tuple(found.shape) for name, found in deployed(images, target).items()})

# %%
# The page is one file that opens by a double click. It holds the network and onnxruntime's WebAssembly, which
# ``export.fetch_runtime()`` downloads once.

try:
    page = export.page(file.with_name("one.html"), [file])
    print(f"{page.name}: {page.stat().st_size / 1e6:.0f} MB")
except CamfnError as error:
    print(error)

# %%
# **If it looks wrong:** A file explains as it was exported: its layer, its method, its size of the image. Other colors
# than in Python come from a photo that was prepared otherwise; ``facts["preprocessing"]`` says how. ``export.load``
# runs a file in Python and names a class that it does not have. ``camfn verify lite0.onnx cat.png`` compares both.

# %%
# **Next:** :doc:`/export` with compiled forms and times, :doc:`/page` with a picture of the page. On the command line:
# ``camfn export lite0.onnx --model lite0``, ``camfn export --page one.html --model lite0``.
