"""Attention of vision transformers: record it in a forward, and make maps from the records.

`capture_attention(model)(inputs, target)` gives a record for each attention, in one vocabulary for timm, torchvision,
Hugging Face and your own networks, also where they run fused kernels. The methods are arithmetic on the records.
`attention_explainer(method, model)` composes a capture and a method; call its result as that of `camfn.explainer`.
"""

from ._capture import capture_attention as capture_attention
from ._capture import observe_attention as observe_attention
from ._explainer import METHODS as METHODS
from ._explainer import attention_explainer as attention_explainer
from ._methods import attention_rollout as attention_rollout
from ._methods import grad_eclip as grad_eclip
from ._methods import gradient_rollout as gradient_rollout
from ._methods import le_grad as le_grad
from ._methods import raw_attention as raw_attention
from ._records import Attended as Attended
from ._records import AttentionRecord as AttentionRecord
