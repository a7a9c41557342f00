"""Records the operations by which the host would wait for a GPU; it works on the CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten


class SyncRecorder(TorchDispatchMode):
    """Record operations that synchronise with a GPU: data-dependent sizes and reads of values."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if func is ATEN.index.Tensor else ()
        by_mask = any(each is not None and each.dtype == torch.bool for each in indices)
        reading = (ATEN.nonzero.default, ATEN._local_scalar_dense.default, ATEN.lift_fresh.default)
        if by_mask or func in reading:
            self.operations.append(str(func))
        return func(*args, **(kwargs or {}))
