"""One thread a test process: the tensors are small, and the suite runs in several processes."""

import torch

torch.set_num_threads(1)
