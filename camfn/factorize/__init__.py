"""Deep Feature Factorization: the concepts that a layer's activations are made of, where they are, what they say.

The N pixels of C channels are one matrix, factored into nonnegative maps and nonnegative concepts. No class is asked
for, and no gradient; what a concept says about the classes is what the network makes of it.
"""

from ._concepts import Concepts as Concepts
from ._concepts import NamedClass as NamedClass
from ._concepts import Negative as Negative
from ._concepts import concept_scores as concept_scores
from ._concepts import deep_feature_factorization as deep_feature_factorization
from ._concepts import project as project
from ._concepts import tail_scores as tail_scores
from ._concepts import top_classes as top_classes
from ._nmf import Factors as Factors
from ._nmf import nmf as nmf
from ._nmf import nnls as nnls
