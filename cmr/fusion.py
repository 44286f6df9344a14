"""A fragment lets its message in as far as the two agree. Most pairs don't match: most gates should shut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmr.attention import one_of

GATES, OPERATIONS = ("element", "scalar"), ("sum", "concat", "product")


def gate(
    x: Tensor,                     # (..., d) fragments; x and message broadcast: (I, 1, m, d)
    message: Tensor,               # (..., d) what passes to each: (I, C, m, d)
    gates: str | None = "element", # "element": by feature (paper); "scalar": by fragment (released)
) -> Tensor:                       # (..., d), (..., 1), or a single 1 where there are no gates
    "How far each fragment lets its message in (CAMP Eq. 5 and 7); ValueError for a gate that nobody knows."
    if gates is None: return x.new_ones(1)
    if gates not in GATES:
        raise ValueError(f"gates={gates!r} is not known; choose one of {', '.join(GATES)}, or None for none")
    agreement = x * message
    return (agreement if gates == "element" else agreement.sum(-1, keepdim=True)).sigmoid()


def combine(
    x: Tensor,               # (..., d) fragments
    message: Tensor,         # (..., d) what passes to each
    operation: str = "sum",  # "sum" (paper), "concat" (released code) or "product"
) -> Tensor:                 # (..., d), or (..., 2d) for "concat"
    "Bring fragment and message together (inside CAMP Eq. 6 and 9); ValueError lists the known operations."
    if one_of("operation", operation, OPERATIONS) == "sum": return x + message
    return x * message if operation == "product" else torch.cat(torch.broadcast_tensors(x, message), -1)


def gated(
    x: Tensor,              # (..., d) fragments
    message: Tensor,        # (..., d) what passes to each
    g: Tensor,              # (..., d), (..., 1) or (1,): the gates
    operation: str = "sum", # "sum", "concat" or "product"
) -> Tensor:                # (..., d), or (..., 2d) for "concat"
    "Fragment and message as far as the gates let them through: G * (V + T~) in CAMP Eq. 6."
    if operation == "concat" and g.shape[-1] > 1: g = torch.cat([g, g], -1)   # for its feature in both halves
    return g * combine(x, message, operation)


class GatedFusion(nn.Module):
    "F: fragments and their messages to fused fragments (CAMP Eq. 5-6 for regions, Eq. 7-9 for words)."
    def __init__(
        self,
        dim: int,                      # d
        gates: str | None = "element", # "element" (paper), "scalar" (released), None ("fusion w/o gates")
        operation: str = "sum",        # "sum" (paper), "concat" (released code) or "product"
        residual: bool = True,         # False: Table 3, "fusion w/o residual"
        fuse: bool = True,             # False: hand the message on as it is (Table 3, "w/o fusion")
    ):
        super().__init__()
        gate(torch.zeros(1), torch.zeros(1), gates)                   # refuses what it doesn't know
        self.kind, self.residual, self.fuse = gates, residual, fuse
        self.operation = one_of("operation", operation, OPERATIONS)
        if not fuse: return                                           # nothing to learn
        self.linear = nn.Linear(2 * dim if operation == "concat" else dim, dim)
        nn.init.xavier_uniform_(self.linear.weight); nn.init.zeros_(self.linear.bias)

    def gates(self, x: Tensor, message: Tensor) -> Tensor:
        "How far each fragment opens: (..., d), (..., 1) or a single 1 (Eq. 5 and 7)."
        return gate(x, message, self.kind)

    def forward(self, x: Tensor, message: Tensor) -> Tensor:
        "Fragments (I, 1, m, d) and messages (I, C, m, d), which broadcast, to (I, C, m, d) (Eq. 6 and 9)."
        if not self.fuse: return message
        y = self.linear(gated(x, message, self.gates(x, message), self.operation)).relu()
        return y + x if self.residual else y
