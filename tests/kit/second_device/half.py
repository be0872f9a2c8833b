"""Half precision as graphics cards have it."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

HALF = {torch.float16, torch.bfloat16}
SUMS = {
    getattr(torch.ops.aten, name)
    for name in (
        *("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "scaled_dot_product_attention"),
        *("conv2d", "convolution", "einsum"),
    )
}


class SummedInFloat32(TorchDispatchMode):
    """Sums of products are made in float32 and rounded once.

    The CPU's own way depends on the processor, and without instructions for it takes ten times as long.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        dtypes = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.is_floating_point()}
        if function.overloadpacket not in SUMS or len(dtypes) != 1 or not dtypes < HALF:  # a mixture is refused below
            return function(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda x: x.float() if x.dtype in HALF else x, (args, kwargs))
        (half,) = dtypes
        return tree_map_only(Tensor, lambda x: x.to(half), function(*args, **kwargs))
