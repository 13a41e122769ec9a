"""PyTorch on all cores: its layers, and an eager loop for cells without a layer."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from noria.bench.grid import Work
from noria.bench.peers import Task, cores

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}

torch.set_num_threads(cores())
torch.manual_seed(0)


def make(work: Work) -> Task:
    xs = torch.from_numpy(work.inputs())
    sizes = work.shape.inputs, work.shape.hidden
    layer = LAYERS[work.cell](*sizes) if work.cell in LAYERS else Loop(*LOOPS[work.cell], *sizes)
    parameters = list(layer.parameters())
    weights = sum(p.numel() for p in parameters if p.ndim == 2)

    def infer() -> Any:
        with torch.inference_mode():
            return layer(xs)

    def train() -> Any:
        ys, state = layer(xs)
        loss = ys.square().mean()
        return loss, state, torch.autograd.grad(loss, parameters)

    if work.mode == "step":
        _, state = infer()
        return Task(torch.inference_mode()(lambda: layer(xs, state)), weights)
    return Task(infer if work.mode == "inference" else train, weights)


def matmul(size: int) -> Callable[[], Any]:
    a = torch.ones(size, size)
    product: Callable[[], Any] = torch.inference_mode()(lambda: torch.mm(a, a))
    return product


class Loop(torch.nn.Module):
    """A loop of ``step(parameters, state, x) -> state``; it outputs the first array of a state."""

    def __init__(
        self, step: Callable[..., Any], states: int, shapes: str, inputs: int, hidden: int
    ):
        super().__init__()
        self.step, self.states, self.hidden = step, states, hidden
        sizes = {"n": inputs, "m": hidden, "2m": 2 * hidden, "4m": 4 * hidden}
        self.p = torch.nn.ParameterDict()
        for word in shapes.split():
            name, shape = word.split(":")
            size = [sizes[letter] for letter in shape.split(",")]
            self.p[name] = torch.nn.Parameter(torch.randn(size) / math.sqrt(size[-1]))

    def forward(self, xs: Any, state: Any = None) -> Any:
        parameters = dict(self.p)
        state = state or (xs.new_zeros(xs.shape[1], self.hidden),) * self.states
        ys = []
        for x in xs.unbind():
            state = self.step(parameters, state, x)
            ys.append(state[0])
        return torch.stack(ys), state


def layer_norm_lstm(p: Any, state: Any, x: Any) -> Any:
    h, c = state
    gates = (
        normalised(F.linear(x, p["W"]), p["gain_x"])
        + normalised(F.linear(h, p["U"]), p["gain_h"])
        + p["b"]
    )
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(normalised(c, p["gain_c"])), c


def normalised(a: Any, gain: Any) -> Any:
    return F.layer_norm(a, a.shape[-1:], gain)


def peephole_lstm(p: Any, state: Any, x: Any) -> Any:
    h, c = state
    i, f, g, o = (F.linear(x, p["W"], p["b"]) + F.linear(h, p["U"])).chunk(4, -1)
    c_new = torch.sigmoid(f + p["p_f"] * c) * c + torch.sigmoid(i + p["p_i"] * c) * torch.tanh(g)
    return torch.sigmoid(o + p["p_o"] * c_new) * torch.tanh(c_new), c_new


def mgu(p: Any, state: Any, x: Any) -> Any:
    (h,) = state
    f, n = F.linear(x, p["W"], p["b"]).chunk(2, -1)
    f = torch.sigmoid(f + F.linear(h, p["U_f"]))
    n = torch.tanh(n + F.linear(f * h, p["U_n"]))
    return ((1 - f) * h + f * n,)


def indrnn(p: Any, state: Any, x: Any) -> Any:
    return (torch.relu(F.linear(x, p["W"], p["b"]) + p["u"] * state[0]),)


def leaky(p: Any, state: Any, x: Any) -> Any:
    (h,) = state
    return (0.7 * h + 0.3 * torch.tanh(F.linear(x, p["W"], p["b"]) + F.linear(h, p["U"])),)


def mingru(p: Any, state: Any, x: Any) -> Any:
    z = torch.sigmoid(F.linear(x, p["W_z"]))
    return ((1 - z) * state[0] + z * F.linear(x, p["W_n"]),)


#: By name: step, arrays of its state, shapes of its parameters for n inputs and m units.
LOOPS: dict[str, tuple[Callable[..., Any], int, str]] = {
    "lnlstm": (layer_norm_lstm, 2, "W:4m,n U:4m,m b:4m gain_x:4m gain_h:4m gain_c:m"),
    "peephole": (peephole_lstm, 2, "W:4m,n U:4m,m b:4m p_i:m p_f:m p_o:m"),
    "mgu": (mgu, 1, "W:2m,n U_f:m,m U_n:m,m b:2m"),
    "indrnn": (indrnn, 1, "W:m,n b:m u:m"),
    "leaky": (leaky, 1, "W:m,n U:m,m b:m"),
    "mingru": (mingru, 1, "W_z:m,n W_n:m,n"),
}
