"""
Hand maps to Quantus, to code for Captum, and to a training's metrics
=====================================================================

Other packages ask for an explanation in a form of their own: Quantus for a function of model, arrays and classes,
Captum for an object with ``attribute``, a training loop for a metric that adds up over batches. ``camfn.adapters`` has
each form, with any method.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import adapters, explainer, image, metrics, tiny
from camfn.methods import hires_cam

net = tiny.load("cnn")
world = tiny.scenes(32, generator=torch.Generator().manual_seed(0))
photos, digits = world.images, world.labels[:, 0]

explain = adapters.quantus_explain(hires_cam, "body")  # quantus.Sparseness()(net, x, y, explain_func=explain)
heats = explain(model=net, inputs=photos.numpy(), targets=digits.numpy())  # an array (32, 1, 64, 64) in [0, 1]
captum = adapters.LayerAttribution(hires_cam, net, "body")  # in the place of captum.attr.LayerGradCam(net, net.body)
attributed = captum.attribute(photos, target=digits)  # (32, 1, 16, 16), raw and signed
print("the same maps:", torch.equal(attributed[:, 0], explainer(hires_cam, net, "body")(photos, digits)))

on_digit = adapters.torchmetric(metrics.energy_in_box)
best_box = adapters.torchmetric(metrics.box_ious, join=metrics.max_box_acc)  # of all samples, no mean of each
boxes = [box[:1] for box in world.boxes]
for at in range(0, 32, 8):  # batches, as a validation has them; it adds up over processes too
    batch = slice(at, at + 8)
    for metric in (on_digit, best_box):
        metric.update(torch.from_numpy(heats[batch, 0]), boxes[batch])
print(f"energy_in_box {float(on_digit.compute()):.2f}, max_box_acc {float(best_box.compute()):.2f} of 32 scenes")

pictures = [photos[0], image.overlay(photos[:1], torch.from_numpy(heats[:1, 0]))[0]]
signed = image.normalize(attributed[:1, 0], signed=True)
pictures.append(image.overlay(photos[:1], signed, colormap="seismic")[0])
to_pil_image(image.montage(pictures, ["the image", "for Quantus", "as from Captum: signed"], cell=(260, 260)))
# sphinx_gallery_thumbnail_cell = 1, 3

# %%
# **If it looks wrong:** Quantus divides maps by their largest value unless told not to, and its metrics take maps of
# the size of the image: that is what ``quantus_explain`` gives. A metric that is no mean over samples wants ``join=``.

# %%
# **Next:** :doc:`/coming` has two columns of code; :doc:`/metrics`; :ref:`sphx_glr_howto_plot_21_evaluate.py`.
# ``pip install 'camfn[adapters]'``.
