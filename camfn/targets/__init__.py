"""Targets: functions from a model's outputs to the score that a map explains, one number a sample.

Any function of the outputs can be a target. The targets of this package are frozen dataclasses that are called: they
can be added, subtracted and scaled (`class_score(281) - 0.5 * class_score(282)`), compared, copied and pickled, and are
pytrees whose leaves are the tensors in them, so that `torch.vmap` goes over `class_score(torch.arange(5))`.
"""

from ._boxes import box_score as box_score
from ._boxes import detection_similarity as detection_similarity
from ._boxes import overlap_score as overlap_score
from ._candidates import Box as Box
from ._classes import binary_score as binary_score
from ._classes import class_log_probability as class_log_probability
from ._classes import class_probability as class_probability
from ._classes import class_score as class_score
from ._classes import contrast as contrast
from ._classes import rest as rest
from ._dense import mask_score as mask_score
from ._dense import regression as regression
from ._dense import several as several
from ._dense import similarity as similarity
from ._dense import token_log_probability as token_log_probability
from ._detections import Detections as Detections
from ._detections import detections as detections
from ._heads import BoxHead as BoxHead
from ._heads import Head as Head
from ._heads import detr_head as detr_head
from ._heads import torchvision_head as torchvision_head
from ._known import head_for as head_for
from ._known import known_head as known_head
from ._resolve import as_score as as_score
from ._resolve import pin as pin
from ._score import Arithmetic as Arithmetic
from ._score import Classes as Classes
from ._score import Move as Move
from ._score import Score as Score
from ._score import logits_of as logits_of
from ._score import moved as moved
from ._unsuppressed import candidates_head as candidates_head
from ._unsuppressed import unsuppressed as unsuppressed
from ._yolo import yolo_head as yolo_head
