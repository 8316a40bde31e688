"""A tiny world with known truth: scenes of handwritten digits on textures, and five small trained models of it.

Every digit's exact mask, box and label are known, so that a map can be held to what it should show. The digits come
from the Optical Recognition of Handwritten Digits data set (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
CC BY 4.0), scaled to 15 gray levels. `python -m camfn.tiny cnn` trains a model anew.
"""

from __future__ import annotations

from ._nets import DIGITS as DIGITS
from ._nets import NAMES as NAMES
from ._nets import load as load
from ._scenes import SIZE as SIZE
from ._scenes import Scenes as Scenes
from ._scenes import scenes as scenes
