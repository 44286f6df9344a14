"""Two fragments match when they point the same way."""

import torch
from torch import Tensor


def wide(
    x: Tensor, # of any precision
) -> Tensor:   # float32, or what it was where that is wider
    "Sums are taken in float32, whatever their terms were computed in."
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def l2_normalize(
    x: Tensor,          # vectors along `dim`; lengths up to 1e19 can be told from infinity
    dim: int = -1,      # the axis along which a vector runs
    eps: float = 1e-12, # a length up to this counts as zero
) -> Tensor:            # shape and dtype of x; every vector has length 1, or is zero where its length was
    "Scale vectors to length 1; a zero vector stays zero and gets no gradient (IMRAM, after Eq. 1 and 2)."
    length = torch.linalg.vector_norm(wide(x), dim=dim, keepdim=True)
    floor = max(eps, torch.finfo(x.dtype).tiny)
    return (wide(x) / length.masked_fill(length <= floor, torch.inf)).to(x.dtype)


def cosine(
    x: Tensor, # (..., m, d) queries
    y: Tensor, # (..., n, d) responses
) -> Tensor:   # (..., m, n) cosines in [-1, 1]; 0 where either vector is zero
    "Cosine of every query with every response (IMRAM Eq. 3); ValueError where the two have different widths."
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"cosine: queries have width {x.shape[-1]}, responses {y.shape[-1]}; both must live in one space")
    return l2_normalize(x) @ l2_normalize(y).transpose(-1, -2)


def inverse_lengths(
    x: Tensor, # (..., d)
) -> Tensor:   # (...), float32 or wider; 0 for a length of 1e-12 or less
    "One over each vector's length, with a gradient that is finite at zero."
    length = torch.linalg.vector_norm(wide(x), dim=-1)
    return 1 / length.masked_fill(length <= 1e-12, torch.inf)
