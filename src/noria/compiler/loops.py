"""A loop on the backend that runs it, and the two loops of a gradient."""

import logging
from dataclasses import dataclass, replace

import jax

from noria.backends import loop_backend
from noria.backends.base import LoopBackend, LoopCall, LoopResult, Sizes
from noria.compiler.residuals import StepVJP
from noria.compiler.split import hoist_slices
from noria.ir.graph import EMPTY, Env, Equation, Graph
from noria.ir.reasons import Reason

log = logging.getLogger("noria")


@dataclass(frozen=True, eq=False)
class ChosenLoop:
    """A loop as it runs, and its backend.

    Attributes:
        call: the loop.
        backend: the backend that runs it.
        prologue: the graph of its hoisted values; empty for a reverse loop.
        note: the reason for another backend than the layer's; ``None`` if it is the same.
        obstacles: all reasons for that.
    """

    call: LoopCall
    backend: LoopBackend
    prologue: Graph = EMPTY
    note: str | None = None
    obstacles: tuple[str, ...] = ()

    def __call__(self, sizes: Sizes, env: Env, steps: Env, carry: list[jax.Array]) -> LoopResult:
        call = self.call if sizes == self.call.sizes else replace(self.call, sizes=sizes)
        shared = {v: env[v] for v in call.graph.inputs if v in env}
        return self.backend.prepare(call)(shared, {v: steps[v] for v in call.steps}, carry)


def loop_on(
    backend: LoopBackend,
    call: LoopCall,
    prologue: Graph = EMPTY,
    note: str | None = None,
    obstacles: tuple[str, ...] = (),
) -> ChosenLoop:
    """Put slices of hoisted values where ``backend`` prefers them: in the prologue or the loop."""
    if not backend.slices_in_loop:
        prologue, graph = hoist_slices(prologue, call.graph, call.shared)
        call = replace(call, graph=graph)
    return ChosenLoop(call, backend, prologue, note, obstacles)


def choose_loop(
    backend: LoopBackend, call: LoopCall, name: str, label: str, prologue: Graph = EMPTY
) -> ChosenLoop:
    """Choose ``backend`` for a loop, or a scan if ``backend`` does not support the loop."""
    obstacles = backend.obstacles(call)
    if not obstacles:
        return loop_on(backend, call, prologue)
    note = Reason.OTHER_LOOP(loop=name, obstacle=obstacles[0])
    log.debug("%s: %s", label, note)
    return loop_on(loop_backend("scan"), call, prologue, note, obstacles)


@dataclass(frozen=True, eq=False)
class Gradient:
    """The two loops of a gradient, planned.

    Attributes:
        vjp: the step and its pull-back.
        uses: the equations of the loop that read parameters.
        forward: the loop that also stores the residuals.
        reverse: the loop over cotangents.
    """

    vjp: StepVJP
    uses: tuple[Equation, ...]
    forward: ChosenLoop
    reverse: ChosenLoop

    @property
    def notes(self) -> list[str]:
        """The reason for each loop that runs on another backend than the layer's."""
        return [loop.note for loop in (self.forward, self.reverse) if loop.note is not None]

    @property
    def obstacles(self) -> list[str]:
        """All that keeps the loops from the backend of the layer."""
        return [*self.forward.obstacles, *self.reverse.obstacles]
