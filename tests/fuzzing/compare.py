"""Backends against the definition.

How close they must be follows from how far the definition moves if it is rounded otherwise.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from tuning import tuned

from fuzzing import edges
from fuzzing.cases import Case, random_case
from fuzzing.evaluate import Evaluated
from fuzzing.matrices import MatrixCell
from noria._jax import parts_of

#: By how much numbers are moved, relative to each; and how close results must be that do not move,
#: relative to the largest.
MOVED = {"float64": 1e-10, "float32": 2e-6, "bfloat16": 2.0**-7, "float16": 2.0**-10}
CLOSE = {"float64": 1e-11, "float32": 4e-6, "bfloat16": 2.0**-6, "float16": 2.0**-8}
#: Programs run once, so that XLA need not make them fast. At level 0 it computes a number twice
#: with different roundings, and then the derivative of a minimum finds it nowhere.
QUICK: Any = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}


@dataclass
class Verdict:
    """What came of a case.

    ``native`` says whether ``"auto"`` runs machine code, ``chunkwise`` whether the matrices of the
    state have that form; ``unusable`` why the definition itself is no measure; ``differences`` are
    one line each.
    """

    seed: int
    native: bool = False
    chunkwise: bool = False
    unusable: str = ""
    differences: list[str] = field(default_factory=list)
    transformation: str = ""
    dtype: str = ""
    matrices: bool = False


#: What the error of a backend says that has no form of a step.
REFUSED = 'backend="chunkwise" needs a state of matrices'
#: Other roundings that are tried before a difference is reported.
MANY = 32


def is_of_edges(seed: int) -> bool:
    """Whether it stands for operations at the edges of their arguments: one of twelve does."""
    return seed % 12 == 7


def verdict_of(seed: int) -> Verdict:
    """Of the case of a seed."""
    if not is_of_edges(seed):
        return verdict(random_case(seed))
    try:
        return Verdict(seed, True, differences=edges.differences(seed), transformation="edges")
    except Exception as error:
        return Verdict(
            seed,
            differences=[f"{type(error).__name__}: {str(error)[:400]}"],
            transformation="edges",
        )


def verdict(case: Case) -> Verdict:
    """Run a case on all of its backends."""
    found = Verdict(case.seed, transformation=case.transformation, dtype=case.dtype.name)
    found.matrices = isinstance(case.cell, MatrixCell)
    try:
        expected = expectations(case)
    except Exception as error:
        found.unusable = f"{type(error).__name__}: {str(error)[:200]}"
        return found
    if not all(map(is_finite, expected)):
        found.unusable = "not finite"
        return found
    more: list[Any] = []
    with tuned(**case.numbers):
        for backend in case.backends:
            try:
                actual, native = results(case, backend)
            except Exception as error:
                if not (backend == "chunkwise" and REFUSED in str(error)):
                    line = f"{backend}: {type(error).__name__}: {str(error)[:400]}"
                    found.differences.append(line)
                continue
            found.native |= native and backend == "auto"
            found.chunkwise |= backend == "chunkwise" and case.transformation != "steps"
            lines = differences(case, actual, expected)
            if lines and not more:  # a few roundings can all miss a jump that is close
                more = [*filter(is_finite, expectations(case, MANY))]
            if lines:
                lines = differences(case, actual, [*expected, *more])
            found.differences += [f"{backend}: {line}" for line in lines]
    return found


def is_finite(results: tuple[list[Any], list[Any]]) -> bool:
    """Whether no number is infinite or NaN; beside a pole, some roundings give one."""
    return all(np.isfinite(np.asarray(a, np.float64)).all() for a in results[0])


def expectations(case: Case, count: int = 0) -> list[tuple[list[Any], list[Any]]]:
    """The results of the definition, exact and with other roundings of all numbers on the way.

    Without a ``count`` of other roundings it is small; larger in 16 bits, where jumps are close.
    """
    function, leaves = case.function("reference")
    run, rng, rough = (
        Evaluated(function, *leaves),
        np.random.default_rng([case.seed, count]),
        MOVED[case.dtype.name],
    )

    def moved(a: Any) -> Any:
        if np.iscomplexobj(a):
            return moved(a.real) + 1j * moved(a.imag)
        return np.asarray(a.astype(np.float64) * (1 + rough * rng.uniform(-1, 1, a.shape))).astype(
            a.dtype
        )

    return [
        run(*leaves),
        *(
            run(*map(moved, map(np.asarray, leaves)), noise=moved)
            for _ in range(count or (4 if case.dtype.itemsize == 2 else 2))
        ),
    ]


def results(case: Case, backend: str) -> tuple[Any, bool]:
    """What a backend gives, and whether there is machine code in it."""
    function, leaves = case.function(backend)
    if not case.compiled:
        program = Evaluated(function, *leaves)
        return program(*leaves), has_native_loop(program.jaxpr)
    traced = jax.jit(function).trace(*leaves)
    return traced.lower().compile(compiler_options=QUICK)(*leaves), has_native_loop(
        parts_of(traced.jaxpr)[0]
    )


def has_native_loop(jaxpr: Any) -> bool:
    """Whether a loop in it is machine code."""
    inner = [
        p
        for e in jaxpr.eqns
        for v in e.params.values()
        for p in (v if isinstance(v, tuple | list) else [v])
    ]
    return any(e.primitive.name == "noria_native_loop" for e in jaxpr.eqns) or any(
        has_native_loop(parts_of(p)[0]) for p in inner if hasattr(p, "eqns")
    )


def differences(case: Case, actual: Any, expected: list[Any]) -> list[str]:
    """One line for each array that is not what it should be."""
    found: list[str] = []
    for kind, part in ((_smooth, 0), (_whole, 1)):
        others = [e[part] for e in expected]
        if len(actual[part]) != len(others[0]):
            found.append(f"{len(actual[part])} arrays; expected {len(others[0])}")
            continue
        for n, (a, *some) in enumerate(zip(actual[part], *others, strict=True)):
            line = kind(case, np.asarray(a), [np.asarray(b) for b in some])
            if line:
                found.append(
                    f"array {n} of {len(others[0])} {('smooth', 'whole')[part]} ones: {line}"
                )
    return found


def _smooth(case: Case, a: Any, expected: list[Any]) -> str:
    wanted = expected[0]
    if a.shape != wanted.shape or a.dtype != wanted.dtype:
        return f"{a.dtype}{a.shape}; expected {wanted.dtype}{wanted.shape}"
    a, wanted, *others = (np.asarray(b, np.float64) for b in (a, *expected))
    moved = max(np.abs(b - wanted).max(initial=0.0) for b in others)
    names = {case.dtype.name, str(expected[0].dtype), *(["float32"] if case.rough else [])}
    close = max(CLOSE[name] for name in names)
    tolerance = 10 * moved + close * max(1.0, np.abs(wanted).max(initial=0.0))
    error = np.abs(a - wanted).max(initial=0.0)
    return (
        ""
        if error <= tolerance
        else f"off by {error:.3g}, tolerance {tolerance:.3g}; {_short(a)} expected {_short(wanted)}"
    )


def _whole(case: Case, a: Any, expected: list[Any]) -> str:
    wanted = expected[0]
    if a.shape != wanted.shape or a.dtype != wanted.dtype:
        return f"{a.dtype}{a.shape}; expected {wanted.dtype}{wanted.shape}"
    certain = np.logical_and.reduce([b == wanted for b in expected])
    return "" if (a == wanted)[certain].all() else f"{_short(a)} expected {_short(wanted)}"


def _short(a: Any) -> str:
    return np.array2string(a.ravel()[:6], precision=6, separator=",")
