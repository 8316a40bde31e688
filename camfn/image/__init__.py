"""Pictures, masks and boxes of raw maps. Methods return raw maps; each rescaling is a function here."""

from ._boxes import boxes as boxes
from ._by_region import by_region as by_region
from ._by_region import superpixels as superpixels
from ._concepts import concepts as concepts
from ._detections import detections as detections
from ._detections import inside as inside
from ._figure import Figure as Figure
from ._figure import figure as figure
from ._montage import montage as montage
from ._montage import slice_montage as slice_montage
from ._notebook import load_ipython_extension as load_ipython_extension
from ._notebook import unload_ipython_extension as unload_ipython_extension
from ._paint import colorize as colorize
from ._paint import curve as curve
from ._paint import overlay as overlay
from ._paint import relief as relief
from ._paint import slices as slices
from ._read import read as read
from ._regions import to_boxes as to_boxes
from ._regions import to_mask as to_mask
from ._scale import normalize as normalize
from ._scale import peer_postprocess as peer_postprocess
from ._scale import upsample as upsample
from ._write import save as save
from ._write import show as show
from ._write import to_bytes as to_bytes
from ._write import to_numpy as to_numpy
from ._write import to_pil as to_pil

__all__ = [
    "Figure",
    "boxes",
    "by_region",
    "colorize",
    "concepts",
    "curve",
    "detections",
    "figure",
    "inside",
    "load_ipython_extension",
    "montage",
    "normalize",
    "overlay",
    "peer_postprocess",
    "read",
    "relief",
    "save",
    "show",
    "slice_montage",
    "slices",
    "superpixels",
    "to_boxes",
    "to_bytes",
    "to_mask",
    "to_numpy",
    "to_pil",
    "unload_ipython_extension",
    "upsample",
]
