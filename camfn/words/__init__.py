"""Word by word: where in the picture a multimodal language model looked when it said a word.

`spans(model, inputs)` says where the pictures of a prompt stand in the sequence, `forced` appends an answer to a
prompt, and `explain` makes a map for every word of the answer from one forward.
"""

from ._draw import draw as draw
from ._maps.drops import drops as drops
from ._maps.explain import Explained as Explained
from ._maps.explain import explain as explain
from ._measures.blank import hide as hide
from ._measures.carried import Carried as Carried
from ._measures.carried import carried as carried
from ._measures.measures import Corrections as Corrections
from ._measures.measures import ObjectIoU as ObjectIoU
from ._measures.measures import RegionCurves as RegionCurves
from ._measures.measures import corrections as corrections
from ._measures.measures import f1_iou as f1_iou
from ._measures.measures import function_iou as function_iou
from ._measures.measures import object_iou as object_iou
from ._measures.measures import region_curves as region_curves
from ._measures.shown import WhenShown as WhenShown
from ._measures.shown import when_shown as when_shown
from ._prompt.pieces import Span as Span
from ._prompt.prompt import forced as forced
from ._prompt.spans import spans as spans
from ._prompt.texts import grouped as grouped
from ._prompt.texts import tiles as tiles
