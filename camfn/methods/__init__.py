"""Class activation map methods: stateless functions (activations, grads, outputs) -> raw map.

`__all__` names the methods; `camfn.catalogue` says of each what it needs and what it returns.
"""

from __future__ import annotations

from ._activation.activation import cam as cam
from ._activation.activation import fem as fem
from ._activation.activation import random_cam as random_cam
from ._activation.eigen import eigen_cam as eigen_cam
from ._activation.eigen import eigen_grad_cam as eigen_grad_cam
from ._activation.eigen import kpca_cam as kpca_cam
from ._activation.eigen import seg_eigen_cam as seg_eigen_cam
from ._activation.tam import tam as tam
from ._black_box.occlusion import occlusion as occlusion
from ._black_box.rise import d_rise as d_rise
from ._black_box.rise import rise as rise
from ._black_box.search import region_search as region_search
from ._black_box.sensitivity import hsic as hsic
from ._black_box.sensitivity import sobol as sobol
from ._edges import sobel_edges as sobel_edges
from ._gradient.gradient import bag_cam as bag_cam
from ._gradient.gradient import elementwise_grad_cam as elementwise_grad_cam
from ._gradient.gradient import grad_cam as grad_cam
from ._gradient.gradient import grad_cam_plusplus as grad_cam_plusplus
from ._gradient.gradient import hires_cam as hires_cam
from ._gradient.gradient import layer_cam as layer_cam
from ._gradient.gradient import odam as odam
from ._gradient.gradient import xgrad_cam as xgrad_cam
from ._gradient.pooled import seg_xres_cam as seg_xres_cam
from ._gradient.second_order import lift_cam as lift_cam
from ._gradient.second_order import shapley_cam as shapley_cam
from ._perturbation.ablation import ablation_cam as ablation_cam
from ._perturbation.clustered import vit_cx as vit_cx
from ._perturbation.groups import fd_cam as fd_cam
from ._perturbation.groups import poly_cam as poly_cam
from ._perturbation.location import recipro_cam as recipro_cam
from ._perturbation.optimized import opti_cam as opti_cam
from ._perturbation.score_cam import score_cam as score_cam
from ._perturbation.score_cams import group_cam as group_cam
from ._perturbation.score_cams import is_cam as is_cam
from ._perturbation.score_cams import ss_cam as ss_cam

__all__ = [  # noqa: RUF022  grouped by what a method needs, which is the order the command line shows
    "cam",
    "tam",
    "grad_cam",
    "hires_cam",
    "elementwise_grad_cam",
    "grad_cam_plusplus",
    "xgrad_cam",
    "layer_cam",
    "odam",
    "seg_xres_cam",
    "bag_cam",
    "eigen_cam",
    "eigen_grad_cam",
    "seg_eigen_cam",
    "kpca_cam",
    "fem",
    "random_cam",
    "ablation_cam",
    "score_cam",
    "recipro_cam",
    "lift_cam",
    "shapley_cam",
    "fd_cam",
    "group_cam",
    "ss_cam",
    "is_cam",
    "poly_cam",
    "opti_cam",
    "vit_cx",
    "rise",
    "d_rise",
    "sobol",
    "hsic",
    "region_search",
    "occlusion",
    "sobel_edges",
]
