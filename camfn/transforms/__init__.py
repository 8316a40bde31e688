"""Maps of several layers, and transformations of methods and of functions `explain(inputs, target) -> cam`."""

from __future__ import annotations

from ._augment import Augmentation as Augmentation
from ._augment import augment as augment
from ._augment import flip as flip
from ._augment import multiply as multiply
from ._eigen_smooth import eigen_smooth as eigen_smooth
from ._fuse import fuse as fuse
from ._fuse import fuse_maps as fuse_maps
from ._path import path_integral as path_integral
from ._scales import multi_scale as multi_scale
from ._smooth import smooth as smooth
from ._windows import WindowScores as WindowScores
from ._windows import windows as windows
