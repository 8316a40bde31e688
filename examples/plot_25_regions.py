"""
Find the few regions that are enough for the class
==================================================

``region_search`` shows the network a photo region by region: at each step the region joins that raises the score most
where it is shown, and lowers it most where it is hidden. It takes any score, also of a detector or a text, and no
gradient. Regions are superpixels, masks of SAM, or a grid of squares.
"""

from functools import partial

from skimage import data
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, metrics
from camfn.methods import hires_cam, region_search
from camfn.zoo import load

loaded = load("lite0")
view = image.read(data.camera())[None].expand(-1, 3, -1, -1)
view = image.upsample(view[0], (224, 224))[None]  # (1, 3, 224, 224), in [0, 1]
images, tripod = (view * 255 - 127) / 128, loaded.classes.index("tripod")
regions = image.superpixels(view, count=25)  # (1, 224, 224): labels

steps = 4
search = partial(region_search, regions=regions, steps=steps)
cam = explainer(search, loaded.model, "bn2")(images, tripod)  # (1, 224, 224): 0 where no region was chosen
score = metrics.scores_of(loaded.model, images)  # the probability of its top class, the tripod
shown = (cam > 0).float()
alone, hidden = (float(score(metrics.masked(images, part))) for part in (shown, 1 - shown))
print(f"p(tripod) {float(score(images)):.2f}; of {steps} regions alone {alone:.2f}; without them {hidden:.2f}")

fine = image.upsample(explainer(hires_cam, loaded.model, "bn2")(images, tripod), (224, 224))
by_region = image.by_region(fine, regions)  # any map, a value a region
pictures = [view[0], *(image.overlay(view, image.normalize(each))[0] for each in (cam, by_region))]
pictures.insert(2, (view * shown)[0])
captions = ["the photo", "region_search", f"p = {alone:.2f} of these alone", "hires_cam by region"]
to_pil_image(image.montage(pictures, captions, columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 2, 4

# %%
# **If it looks wrong:** A region that belongs to two things cannot be told apart inside: take more superpixels, or the
# masks of a segmentation. The order is greedy, not the best. Black is no photo: see ``baseline=``.

# %%
# **Next:** The method's page, :doc:`/methods/region_search`; ``image.by_region`` with integrated gradients is XRAI.
# :ref:`sphx_glr_howto_plot_20_metrics.py`. On the command line: ``--method "region_search:steps=4"``.
