"""An operation whose gradient is wrong in bfloat16, as a processor's broken kernel would make it."""

import torch


class Falsified(torch.autograd.Function):
    """y = x * weight, whose weight gradient is `garbage` where x is bfloat16: what a broken kernel looks like."""

    @staticmethod
    def forward(ctx, x, weight, garbage):
        ctx.save_for_backward(x, weight)
        ctx.garbage = garbage
        return x * weight.to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        by_weight = (gradient * x).float().sum((0, 2, 3), keepdim=True)
        if x.dtype == torch.bfloat16:
            by_weight = ctx.garbage(by_weight)
        return gradient * weight.to(x.dtype), by_weight, None
