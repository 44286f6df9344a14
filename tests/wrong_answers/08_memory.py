"Typical wrong answers to the exercises of chapter 08."

UNIT = """class Distill(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear, self.gate = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)
    def forward(self, x, c):
        both = torch.cat([{both}], -1)
        g, o = self.gate(both).sigmoid(), self.linear(both).{squash}()
        return {new}"""

WRONG = {
    "Distill": [
        UNIT.format(both="x, c", squash="tanh", new="(1 - g) * x + g * o"),   # the gate the wrong way round
        UNIT.format(both="c, x", squash="tanh", new="g * x + (1 - g) * o"),   # the halves exchanged
        UNIT.format(both="x, c", squash="sigmoid", new="g * x + (1 - g) * o"),
        UNIT.format(both="x, c", squash="tanh", new="g * x + (1 - g) * c"),   # that is Table 5's gate
        UNIT.format(both="x, c", squash="tanh", new="x + (1 - g) * o")],
    "open_gates": [
        "def open_gates(dim): return memory('distill', dim)",
        """def open_gates(dim):
    unit = memory("distill", dim)
    nn.init.constant_(unit.linear.bias, 5.)
    return unit""",
        """def open_gates(dim):
    unit = memory("distill", dim)
    nn.init.constant_(unit.gate.bias, .8)
    return unit""",
        """def open_gates(dim):
    unit = memory("distill", dim)
    nn.init.constant_(unit.gate.bias, -5.)
    return unit"""],
    "GRUMemory": [
        # the gate sees r * x as well
        """class GRUMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gate, self.reset, self.linear = (nn.Linear(2 * dim, dim) for _ in range(3))
    def forward(self, x, c):
        x = of_both(self.reset, x, c).sigmoid() * x
        g = of_both(self.gate, x, c).sigmoid()
        return g * x + (1 - g) * of_both(self.linear, x, c).tanh()""",
        # r hides the context
        """class GRUMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gate, self.reset, self.linear = (nn.Linear(2 * dim, dim) for _ in range(3))
    def forward(self, x, c):
        g, r = of_both(self.gate, x, c).sigmoid(), of_both(self.reset, x, c).sigmoid()
        return g * x + (1 - g) * of_both(self.linear, x, r * c).tanh()""",
        # r is never used
        """class GRUMemory(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gate, self.reset, self.linear = (nn.Linear(2 * dim, dim) for _ in range(3))
    def forward(self, x, c):
        g = of_both(self.gate, x, c).sigmoid()
        return g * x + (1 - g) * of_both(self.linear, x, c).tanh()"""],
}
