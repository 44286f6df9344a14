"""After a look, a word may change its question. The memory unit decides how much of the old question it keeps."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear


def of_both(
    layer: nn.Linear, # from 2d features to any number
    x: Tensor,        # (..., d)
    c: Tensor,        # (..., d); x and c may broadcast
) -> Tensor:          # (..., out)
    "`layer([x, c])` without writing the concatenation down: W [x, c] = W_x x + W_c c (inside IMRAM Eq. 7)."
    d = x.shape[-1]
    return linear(x, layer.weight[:, :d], layer.bias) + linear(c, layer.weight[:, d:])


class Distill(nn.Module):
    "The memory distillation unit: keep what the gate says, fill up with the fused feature (IMRAM Eq. 7)."
    def __init__(
        self,
        dim: int, # d
    ):
        super().__init__()
        self.linear, self.gate = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)

    def gates(self, x, c):
        "How much of each feature of x is kept: (..., d) in (0, 1) (Eq. 7, first line)."
        return of_both(self.gate, x, c).sigmoid()

    def forward(self, x, c):
        "Queries x and contexts c, (..., d) each, to g * x + (1 - g) * o."
        o = of_both(self.linear, x, c).tanh()
        return o.lerp(x.to(o.dtype).expand_as(o), self.gates(x, c)) # .to: in mixed precision x may be wider


class Add(nn.Module):
    "x + c (IMRAM Table 5, add)."
    def __init__(self, dim: int): super().__init__() # d: not needed

    def forward(self, x, c): return x + c

class MLP(nn.Module):
    "x + tanh(W c + b) (IMRAM Table 5, mlp)."
    def __init__(
        self,
        dim: int, # d
    ):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x, c): return x + self.linear(c).tanh()


class Gate(nn.Module):
    "beta * x + (1 - beta) * c with a vector beta made from x and c (IMRAM Table 5, gate)."
    def __init__(
        self,
        dim: int,               # d
        gates: int | None = None, # how many: d where None, or 1
    ):
        super().__init__()
        self.gate = nn.Linear(2 * dim, gates or dim)

    def gates(self, x, c):
        "How much of x is kept: (..., d) or (..., 1), in (0, 1)."
        return of_both(self.gate, x, c).sigmoid()

    def forward(self, x, c): return c.lerp(x.to(c.dtype).expand_as(c), self.gates(x, c).to(c.dtype))

class Att(Gate):
    "alpha * x + (1 - alpha) * c with one number alpha made from x and c (IMRAM Table 5, att)."
    def __init__(
        self,
        dim: int, # d
    ):
        super().__init__(dim, 1)


MEMORIES = {"distill": Distill, "add": Add, "mlp": MLP, "att": Att, "gate": Gate}

def memory(
    name: str,  # "distill", "add", "mlp", "att" or "gate"
    dim: int,   # d
) -> nn.Module: # called as memory(x, c)
    "Make an aggregating function f(x, c) by its name (IMRAM Eq. 6, Table 5); ValueError lists the known names."
    if name not in MEMORIES: raise ValueError(f"memory={name!r} is not known; choose one of {', '.join(MEMORIES)}")
    return MEMORIES[name](dim)
