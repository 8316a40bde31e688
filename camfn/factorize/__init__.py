"""Deep Feature Factorization: concepts that a layer's activations consist of, their maps, and their class scores.

The N pixels of C channels are one matrix, which is factored into nonnegative maps and nonnegative concepts. Neither a
class nor a gradient is needed; the class scores of a concept are the outputs of the network for it.
"""

from ._concepts import Concepts as Concepts
from ._concepts import NamedClass as NamedClass
from ._concepts import Negative as Negative
from ._concepts import concept_scores as concept_scores
from ._concepts import deep_feature_factorization as deep_feature_factorization
from ._concepts import project as project
from ._concepts import tail_scores as tail_scores
from ._concepts import top_classes as top_classes
from ._craft import Craft as Craft
from ._craft import concept_importance as concept_importance
from ._craft import craft as craft
from ._craft import crops as crops
from ._nmf import Factors as Factors
from ._nmf import nmf as nmf
from ._nmf import nnls as nnls
