"""Word by word: where in the picture a multimodal language model looked when it said a word.

`spans(model, inputs)` says where the pictures of a prompt stand in the sequence, `forced` appends an answer to a
prompt, and `explain` makes a map for every word of the answer from one forward.
"""

from ._blank import hide as hide
from ._carried import Carried as Carried
from ._carried import carried as carried
from ._draw import draw as draw
from ._drops import drops as drops
from ._explain import Explained as Explained
from ._explain import explain as explain
from ._measures import Corrections as Corrections
from ._measures import ObjectIoU as ObjectIoU
from ._measures import RegionCurves as RegionCurves
from ._measures import corrections as corrections
from ._measures import f1_iou as f1_iou
from ._measures import function_iou as function_iou
from ._measures import object_iou as object_iou
from ._measures import region_curves as region_curves
from ._pieces import Span as Span
from ._prompt import forced as forced
from ._shown import WhenShown as WhenShown
from ._shown import when_shown as when_shown
from ._spans import spans as spans
from ._texts import grouped as grouped
from ._texts import tiles as tiles
