"""Random cells on all backends against the definition, under every transformation.

The full run takes 40 cells, the default run those of them that have each kind. A long run is
``python scripts/fuzz.py 0 5000``, which prints the command that repeats a fault.
"""

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from fuzzing.cases import DTYPES, NUMBERS, OTHERS, SEGMENTS, TRANSFORMATIONS, random_case
from fuzzing.cells import EXTRAS, KINDS, OPERATIONS, PEELED, FuzzedCell, drawn
from fuzzing.compare import is_of_edges, verdict, verdict_of
from fuzzing.evaluate import evaluated
from fuzzing.matrices import is_of_matrices
from fuzzing.memories import DECAYS, READS, SIZES, UPDATES, Memory
from fuzzing.operations import named
from fuzzing.spellings import ACROSS, ALONG, GATES, KEYS, OUTER, PROJECT
from models import AUTO, assert_close, random
from tuning import tuned

import noria as nr

SEEDS = [*range(41), 57, 58, 113]
#: Those that are run by default.
FEW = [1, 7, 13, 15, 16, 17, 21, 22, 23, 26, 28, 34, 36, 38, 57, 58, 113]


@pytest.mark.parametrize(
    "seed", [s if s in FEW else pytest.param(s, marks=pytest.mark.full) for s in SEEDS]
)
@pytest.mark.timeout(60)
def test_backends_agree_on_a_random_cell(seed):
    """Those that there is no machine code for run as a scan."""
    found = verdict_of(seed)
    assert not found.unusable
    assert not found.differences


def test_the_default_run_has_every_kind():
    """Each transformation and type, and most of what else is drawn."""
    cases = [random_case(seed) for seed in FEW if not is_of_edges(seed)]
    assert any(map(is_of_edges, FEW))
    assert {*FEW} < {*SEEDS}
    assert {case.transformation for case in cases} == {*TRANSFORMATIONS}
    assert {case.dtype.name for case in cases} == {*DTYPES}
    assert {name for case in cases for name in case.numbers} >= {*NUMBERS, *SEGMENTS}
    vectors = [case.cell for case in cases if isinstance(case.cell, FuzzedCell)]
    assert {kind for cell in vectors for kind in cell.extras} == {*EXTRAS, "image"}
    assert {kind for cell in vectors for kind in cell.peeled} == {*PEELED}
    assert {name for case in cases for name in case.options} == {"lengths", "resets", "key"}
    assert {"int32", "uint8", "bool"} & {case.xs.dtype.name for case in cases}
    cases = [random_case(seed) for seed in SEEDS if not is_of_edges(seed)]
    assert {name for case in cases for name in case.numbers} >= {*OTHERS}
    for name in ("compiled", "closed_over", "partial"):
        assert {getattr(case, name) for case in cases} == {False, True}
    for option, some in {
        "save": 2,
        "checkpoint": 2,
        "reverse": 2,
        "learn_initial_state": 2,
    }.items():
        assert len({case.layer_options.get(option) for case in cases}) >= some


def test_there_are_many_operations_and_all_are_drawn():
    counts = Counter(
        what
        for seed in range(4000)
        for kind, what, *_ in drawn(seed).instructions
        if kind == "operation"
    )
    assert len(OPERATIONS) >= 200
    assert {*counts} == {*OPERATIONS}
    assert all(callable(named(name)) for name in OPERATIONS)
    kinds = {kind for seed in range(200) for kind, *_ in drawn(seed).instructions}
    assert kinds == {*KINDS, "noise"}


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_an_operation_gives_a_vector(dtype):
    """Of the type that it is given, and of its length if it says so."""
    for name, operation in OPERATIONS.items():
        with jax.numpy_dtype_promotion("standard"):
            found = jax.eval_shape(
                operation.function, *[jax.ShapeDtypeStruct((5,), dtype)] * operation.arity
            )
        assert found.dtype == dtype, name
        assert found.ndim == 1, name
        assert found.size, name
        assert found.size == 5 or not operation.keeps, name


def test_all_equations_of_matrix_memories_are_drawn():
    rng = np.random.default_rng(0)
    memories = [Memory.drawn(rng, bool(n % 2)) for n in range(400)]
    assert {update for m in memories for update in m.updates} == {*UPDATES}
    assert {m.decay for m in memories} == {*DECAYS}
    assert {m.gate for m in memories} == {*GATES}
    assert {m.key for m in memories} == {*KEYS}
    assert {read for m in memories for read in m.reads} == {*READS}
    assert {size for m in memories for size in (m.keys, m.values)} == {*SIZES}
    assert {m.heads for m in memories} == {(), (1,), (2,), (3,), (4,)}
    for name in ("key_last", "last", "normaliser"):
        assert {getattr(m, name) for m in memories} == {False, True}


@pytest.mark.parametrize(
    "table", [OUTER, ACROSS, ALONG, PROJECT], ids="OUTER ACROSS ALONG PROJECT".split()
)
def test_ways_to_write_a_product_agree(table):
    """With heads, and with one operand that all heads share."""
    shapes = {id(OUTER): ((3,), (5,)), id(ACROSS): ((3, 5), (3,)), id(ALONG): ((3, 5), (5,))}
    ends = shapes.get(id(table), ((3, 5), (5,)))
    for first, second in ((2,), (2,)), ((2,), ()), ((), ()):
        second = () if table is PROJECT else second
        arrays = [
            random(n, *head, *end)
            for n, (head, end) in enumerate(zip((first, second), ends, strict=True))
        ]
        found = [way(*arrays) for way in table.values()]
        for other in found[1:]:
            assert_close(other, found[0], 1e-13)


@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.full)])
def test_most_matrix_memories_run_as_machine_code_and_many_in_chunks(count):
    """So that the comparison above is one."""
    found = []
    for case in map(random_case, filter(is_of_matrices, range(count))):
        if case.dtype != jnp.float16:
            with tuned(**case.numbers):
                found.append(nr.explain(case.layer("auto"), case.xs, **case.options))
    assert len(found) > 0.2 * count
    assert sum(page.backend == "native" for page in found) > 0.9 * len(found)
    assert sum(page.chunkwise == "yes" for page in found) > 0.2 * len(found)


@pytest.mark.full
@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
def test_most_random_cells_run_as_machine_code():
    """So that the comparison above is one."""
    found = []
    for seed in range(30):
        case = random_case(seed)
        if case.dtype != jnp.float16:
            with tuned(**case.numbers):
                found.append(
                    nr.explain(case.layer("auto"), case.xs, **case.options).backend == "native"
                )
    assert sum(found) > 0.6 * len(found)


def test_the_oracle_gives_what_xla_gives():
    """With inner loops, branches, random numbers and derivatives."""

    def function(a, key):
        b = jax.lax.scan(
            lambda c, x: (jnp.tanh(c + x), c.sum()), a, jnp.stack([a, a]), reverse=True
        )
        c = jax.lax.cond(a[0] > 5, jnp.sin, jnp.cos, a) + jax.random.normal(key, a.shape, a.dtype)
        d = jax.lax.while_loop(lambda c: c.sum() < 30, lambda c: c + 1, jax.lax.stop_gradient(a))
        e = (
            jnp.round(3 * a),
            (4.2 * a).astype(jnp.int32) // 3,
            jax.lax.pad(a, jnp.ones((), a.dtype), [(1, -1, 2)]),
            jnp.cumsum(a[::-1]),
        )
        return (
            b,
            c,
            d,
            e,
            jnp.split(a, 2),
            jax.nn.softmax(a.reshape(2, 2), 0) @ jnp.ones((2, 3), a.dtype),
        )

    def pulled(a, key):
        values, pull = jax.vjp(lambda a: function(a, key)[:2], a)
        return function(a, key), pull(jtu.tree_map(jnp.ones_like, values))

    arguments = jnp.asarray([0.3, -1.2, 0.7, 2.1]), jax.random.key(3)
    assert_close(evaluated(pulled, *arguments), jax.jit(pulled)(*arguments), 1e-13)


def test_a_fault_is_found(monkeypatch):
    """In the results, in their shapes, and as an error where the definition has none."""
    case = next(
        c
        for c in map(random_case, SEEDS)
        if c.transformation == "cotangents" and c.dtype == jnp.float64
    )
    case = dataclasses.replace(case, backends=("scan",))
    scan = nr.Recurrence.scan

    def wrong(change):
        def run(layer, *arguments, **options):
            found = scan(layer, *arguments, **options)
            return found if layer.backend == "reference" else jtu.tree_map(change, found)

        monkeypatch.setattr(nr.Recurrence, "scan", run)
        return "\n".join(verdict(case).differences)

    assert wrong(lambda a: a) == ""
    assert "off by" in wrong(lambda a: a * (1 + 1e-5) if a.dtype == jnp.float64 else a)
    assert "; expected float64(" in wrong(lambda a: a[..., None] if a.dtype == jnp.float64 else a)
    assert "scan: ZeroDivisionError: " in wrong(lambda a: a * (1 // 0))


def test_what_cannot_be_compared_is_said():
    """The definition's own result is not finite, or it has none."""
    case = next(
        c
        for c in map(random_case, SEEDS)
        if c.xs.dtype == jnp.float64 and "lengths" not in c.options
    )
    found = verdict(dataclasses.replace(case, xs=case.xs * np.nan))
    assert found.unusable == "not finite"
    found = verdict(dataclasses.replace(case, xs=case.xs[..., :0]))
    assert "Error: " in found.unusable


def test_a_long_run_goes_on_and_survives_a_child_that_dies(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "scripts" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz_script", path)
    assert spec
    fuzz = importlib.util.module_from_spec(spec)
    assert spec.loader
    spec.loader.exec_module(fuzz)
    ran = []

    class Child:
        def __init__(self, setting):
            self.setting = setting

        def run(self, seed):
            ran.append((seed, self.setting))
            return (
                {"seed": seed, "crash": "exit status -11"}
                if seed == 3
                else {"seed": seed, "native": True}
            )

        def close(self):
            pass

    monkeypatch.setattr(fuzz, "Child", Child)
    monkeypatch.setattr(fuzz, "BATCH", 2)
    for last in (4, 6):
        with pytest.raises(fuzz.typer.Exit) as ended:
            fuzz.main(
                0, last, processes=2, minutes=1, settings="default,sse", file=tmp_path / "results"
            )
        assert ended.value.exit_code == 1, "one crashed"
    assert sorted(ran) == [
        (0, "default"),
        (1, "default"),
        (2, "sse"),
        (3, "sse"),
        (4, "default"),
        (5, "default"),
    ]
