"""A test for each name of `noria._jax`, which alone goes beyond JAX's public API."""

import ast
import gc
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import serialize_executable
from models import random

import noria as nr
from noria import _jax

SOURCE = Path(nr.__file__).parent
#: Modules of JAX without a promise of stability.
PRIVATE = (
    "jax._src",
    "jax.core",
    "jax.custom_derivatives",
    "jax.dispatch",
    "jax.extend",
    "jax.interpreters",
)


def test_one_package_goes_beyond_the_public_api():
    for path in SOURCE.rglob("*.py"):
        if path.parent.name == "_jax":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            for name in names:
                assert not f"{name}.".startswith(tuple(f"{module}." for module in PRIVATE)), (
                    f"{path}: {name}"
                )


def test_every_name_has_a_test():
    own = {name.lower() for name in _jax.__all__}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert own <= tested, own - tested
    public = {
        n for n, v in vars(_jax).items() if not n.startswith("_") and not isinstance(v, ModuleType)
    }
    assert own <= {name.lower() for name in public}


def jaxpr_of(function, *args):
    return _jax.parts_of(jax.make_jaxpr(function)(*args))


X = jnp.arange(3.0)


def test_inner_jaxprs():
    """Of calls, of loops, and of all branches."""

    def function(x):
        x = jax.jit(jnp.sin)(x)
        return jax.lax.cond(x[0] > 0, jnp.cos, lambda x: jax.lax.map(jnp.tanh, x), x)

    found = [
        {e.primitive.name for jaxpr in _jax.inner_jaxprs(e.params) for e in jaxpr.eqns}
        for e in jaxpr_of(function, X)[0].eqns
    ]
    assert [names for names in found if names] == [{"sin"}, {"cos", "scan"}]


def test_parts_of():
    held = jnp.ones(3)
    jaxpr, arrays = jaxpr_of(lambda x: x + held, X)
    assert [np.shape(a) for a in arrays] == [v.aval.shape for v in jaxpr.constvars] == [(3,)]
    inner = jax.make_jaxpr(jax.jit(jnp.sin))(X).eqns[0].params["jaxpr"]
    assert [e.primitive.name for e in _jax.parts_of(inner)[0].eqns] == ["sin"]


def test_call():
    (value,) = _jax.call(jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(X), X)
    np.testing.assert_array_equal(value, jnp.sin(X) + 1)


def test_literal():
    jaxpr, _ = jaxpr_of(lambda x: x * 2.5, X)
    (equation,) = jaxpr.eqns
    assert [isinstance(v, _jax.Literal) for v in equation.invars] == [False, True]
    assert float(equation.invars[1].val) == 2.5
    assert (
        _jax.Literal(np.float32(1), _jax.ShapedArray((), jnp.float32)).aval.str_short()
        == "float32[]"
    )


def test_var():
    jaxpr, _ = jaxpr_of(lambda x: jnp.sin(x), X)
    assert all(isinstance(v, _jax.Var) for v in (*jaxpr.invars, *jaxpr.outvars))


def test_shapedarray():
    aval = _jax.ShapedArray((2,), jnp.float32)
    assert (aval.shape, aval.dtype, aval.str_short(short_dtypes=True)) == (
        (2,),
        jnp.float32,
        "f32[2]",
    )


@pytest.mark.parametrize(
    "function", [jnp.sin, jax.nn.relu, lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)]
)
def test_bind(function):
    jaxpr, _ = jaxpr_of(function, X)
    known = dict(zip(jaxpr.invars, [X], strict=True))
    for e in jaxpr.eqns:
        arrays = [v.val if isinstance(v, _jax.Literal) else known[v] for v in e.invars]
        known.update(zip(e.outvars, _jax.bind(e.primitive, arrays, e.params, None), strict=True))
    np.testing.assert_allclose(known[jaxpr.outvars[0]], function(X), rtol=1e-12)


def test_user_frames():
    jaxpr, _ = jaxpr_of(lambda x: jax.lax.sin(x), X)
    paths = [path for path, _ in _jax.user_frames(jaxpr.eqns[0].source_info.traceback)]
    assert next(path for path in paths if "site-packages" not in path) == __file__
    assert _jax.user_frames(None) == []


def test_is_symbolic():
    (size,) = export.symbolic_shape("b")
    assert _jax.is_symbolic(2, size)
    assert not _jax.is_symbolic(2, np.int64(3))


def test_tracer():
    assert jax.eval_shape(lambda x: jnp.zeros(isinstance(x, _jax.Tracer)), X).shape == (1,)
    assert not isinstance(X, _jax.Tracer)


def test_symboliczero():
    seen: list[bool] = []

    def pull(_, cotangents):
        seen.extend(isinstance(g, _jax.SymbolicZero) for g in cotangents)
        return (cotangents[0],)

    identity = jax.custom_vjp(lambda x: (x, x))
    identity.defvjp(
        lambda x: ((x.value, x.value), None),
        pull,
        symbolic_zeros=True,
    )
    jax.grad(lambda x: identity(x)[0].sum())(X)
    assert seen == [False, True]


def test_is_known():
    array, seen = jnp.ones(2), []

    def look(a: jax.Array) -> jax.Array:
        seen.append((_jax.is_known(a), _jax.is_known(array)))
        return a * 2

    look(array)
    jax.vmap(look)(array)
    jax.jit(look)(array)
    assert seen == [(True, True), (False, True), (False, True)]
    assert _jax.is_known(np.ones(2))  # a constant of a traced function
    assert not _jax.is_known(2.0)


def test_is_recording():
    seen = []

    def look(a: jax.Array) -> jax.Array:
        seen.append(_jax.is_recording())
        return a * 2

    for run in (look, jax.vmap(look), jax.jit(look), jax.jit(jax.vmap(look))):
        run(jnp.ones(2))
    assert seen == [False, False, True, True]


def test_looks_at_residuals():
    assert not _jax.looks_at_residuals()
    for switch in (jax.debug_nans, jax.debug_infs):
        with switch(True):
            assert _jax.looks_at_residuals()


def test_settings():
    before, config = _jax.settings(), cast(Any, jax.config)
    assert hash(before) == hash(_jax.settings())
    for changed in (jax.enable_x64(not config.jax_enable_x64), jax.debug_nans(True)):
        with changed:
            assert _jax.settings() != before
    mesh = jax.make_mesh((1,), ("devices",), (jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        assert _jax.settings() != before
    assert _jax.settings() == before


DOUBLED: Any = _jax.primitive(
    "doubled_and_halved",
    shapes=lambda x, only: [jax.ShapeDtypeStruct(x.shape, x.dtype)] * len(only),
    jvp=lambda primals, tangents, only: (
        DOUBLED.bind(*primals, only=only),
        DOUBLED.bind(*tangents, only=only),
    ),
    dce=lambda used, only: (
        [True],
        used,
        {"only": tuple(f for f, u in zip(only, used, strict=True) if u)},
    ),
    batch=lambda arrays, axes, only: (DOUBLED.bind(*arrays, only=only), [axes[0]] * len(only)),
    portable=lambda x, only: [x * f for f in only],
    cpu=lambda x, only: [x * f for f in only],
    rows=lambda only: _jax.Rows([0], [0] * len(only)),
)


def test_primitive():
    """Every rule: eager, under jit, without jit, mapped, differentiated, and partly unused."""

    def both(x):
        return DOUBLED.bind(x, only=(2.0, 0.5))

    def names(function):
        return [(e.primitive.name, e.params.get("only")) for e in jaxpr_of(function, X)[0].eqns]

    for function in (both, jax.jit(both), lambda x: jax.vmap(both)(x[:, None])):
        np.testing.assert_array_equal(np.ravel(function(X)), [0, 2, 4, 0, 0.5, 1])
    with jax.disable_jit():
        np.testing.assert_array_equal(np.ravel(both(X)), [0, 2, 4, 0, 0.5, 1])
    np.testing.assert_array_equal(jax.jvp(both, [X], [X])[1], both(X))
    text = jax.jit(lambda x: both(x)[1]).lower(X).as_text()
    assert "2.0" not in text
    assert names(both) == [("doubled_and_halved", (2.0, 0.5))]


def test_differentiable():
    """Forward mode differentiates the function, reverse mode calls the rule of the pull-back."""

    def function(x, n):
        return [jnp.sin(x) * n], [n + 1]

    def forward(moved, x, n):
        assert moved == (True, False)

        def pull(x, n, cotangents):
            (of_sine,), (of_number,) = cotangents
            seen.append(isinstance(of_number, _jax.SymbolicZero))
            return 10 * of_sine * jnp.cos(x) * n, None

        return function(x, n), jax.tree_util.Partial(pull, x, n), None

    seen: list[bool] = []
    run = _jax.differentiable(function, forward, (0, 0))
    two = jnp.asarray(2)

    def first(x):
        return run(x, two)[0][0]

    def plain(x):
        return function(x, two)[0][0]

    for one in (first, jax.jit(first)):
        check_both_modes(one, plain)
    assert all(seen)


def check_both_modes(function, plain):
    """Its pull-back gives ten times the cotangents of ``plain``."""
    np.testing.assert_allclose(function(X), plain(X))
    pairs = zip(jax.jvp(function, [X], [X]), jax.jvp(plain, [X], [X]), strict=True)
    for found, right in pairs:
        np.testing.assert_allclose(found, right)
    jacobian = jax.jacfwd(plain)(X)
    np.testing.assert_allclose(jax.jacfwd(function)(X), jacobian, atol=1e-12)
    np.testing.assert_allclose(jax.jacrev(function)(X), 10 * jacobian, atol=1e-12)
    mapped = jax.vmap(function, 1, 1)
    for one in (function, lambda x: mapped(x[:, None])):
        found = jax.vjp(one, X)[1](jnp.ones_like(one(X)))[0]
        np.testing.assert_allclose(found, 10 * jacobian.sum(0), atol=1e-12)


def test_linearmap():
    """Evaluated, mapped, transposed with its own rule, and differentiated by its residuals."""
    scaled = _jax.LinearMap(
        lambda residuals, tangents: [residuals[0] * tangents[0]],
        lambda residuals, cotangents: [3 * residuals[0] * cotangents[0]],
        (_jax.tangent_type(X),),
        (0,),
    )

    def by(r, t):
        return scaled([r], [t])[0]

    np.testing.assert_array_equal(by(X, X), X * X)
    np.testing.assert_array_equal(jax.jit(by)(X, X), X * X)
    both = jnp.stack([X, 2 * X])
    np.testing.assert_array_equal(jax.vmap(by, (None, 0))(X, both), X * both)
    np.testing.assert_array_equal(jax.jvp(by, [X, X], [X, X])[1], 2 * X * X)
    np.testing.assert_array_equal(jax.linear_transpose(lambda t: by(X, t), X)(X)[0], 3 * X * X)
    pulled = jax.grad(lambda t: jax.vmap(by, (0, None))(both, t).sum())(X)
    np.testing.assert_array_equal(pulled, 3 * both.sum(0))


def test_tangent_type():
    assert _jax.tangent_type(X).dtype == X.dtype
    assert _jax.tangent_type(jnp.asarray(1)).dtype == jax.dtypes.float0


def test_rows():
    """A program for one device is not partitioned; `test_sharding` has several devices."""
    text = jax.jit(lambda x: DOUBLED.bind(x, only=(2.0,))).lower(X).as_text()
    assert "artitioning" not in text


def on_a_mesh(function, *args):
    """Inside of `jax.shard_map`, the first array cut over the axis ``data``, the others whole."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut, whole = jax.P("data"), jax.P()
    specs = cut, *[whole for _ in args[1:]]
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=cut))(*args)


def test_varying_axes():
    seen: list[frozenset[str]] = []

    def function(x, y):
        seen.extend(map(_jax.varying_axes, (x, y)))
        return x

    on_a_mesh(function, X, X)
    assert seen == [{"data"}, set()]
    assert _jax.varying_axes(X) == set()


def test_varying():
    seen = []

    def function(x, y):
        y = _jax.varying(y, _jax.varying_axes(x))
        seen.append(_jax.varying_axes(y))
        return y

    np.testing.assert_array_equal(on_a_mesh(function, X, X), X)
    assert seen == [{"data"}]
    assert _jax.varying(X, frozenset()) is X


def test_retyped():
    """Numbers stay, derivatives too, and an outer `jax.vmap` finds nothing special."""
    seen = []

    def function(x):
        bare = _jax.retyped(x, frozenset())
        seen.append(_jax.varying_axes(bare))
        return _jax.retyped(jnp.sin(bare), _jax.varying_axes(x))

    def value_and_gradient(x):
        value, pull = jax.vjp(jax.vmap(function), x)
        return value + pull(value)[0]

    np.testing.assert_allclose(
        on_a_mesh(value_and_gradient, X), np.sin(X) + np.sin(X) * np.cos(X), rtol=1e-12
    )
    assert seen == [set()]


def test_aligned():
    """The axes of a function and of its rule are the same, whatever the two do."""

    def results(x, y, axis):
        moved = jnp.moveaxis(jnp.moveaxis(x, 0, axis), axis, 0)
        return _jax.aligned([moved, jnp.zeros(2)], [1, 0], [x, y])

    def function(x):
        run = jax.custom_vjp(lambda x: results(x, X, 0))
        run.defvjp(lambda x: (results(x, X, 1), None), lambda _, g: (g[0],))
        return run(x)

    stacked = random(0, 5, 4, 3)
    want = [stacked, np.zeros((5, 2))]
    for mapped in (jax.vmap(function), jax.vmap(jax.jit(function)), jax.jit(jax.vmap(function))):
        for got in (mapped(stacked), jax.vjp(mapped, stacked)[0]):
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)
    twice = jax.vmap(jax.vmap(jax.jit(function)))(stacked[None])
    np.testing.assert_array_equal(twice[0], stacked[None])
    jaxpr, _ = jaxpr_of(lambda x: jax.vmap(lambda x: results(x, X, 0)[0])(x), stacked)
    assert "aligned" in str(jaxpr)


def test_everywhere():
    """One flag for all examples, so that a condition runs one branch and not both."""

    def function(x):
        return jax.lax.cond(_jax.everywhere((x > 0).all()), lambda: x, lambda: -x)

    stacked = np.array([[1.0, 2.0], [3.0, -4.0]])
    twice = np.stack([stacked, abs(stacked)])
    for mapped in (jax.vmap(function), jax.jit(jax.vmap(function))):
        np.testing.assert_array_equal(mapped(stacked), -stacked)
        np.testing.assert_array_equal(mapped(abs(stacked)), abs(stacked))
    np.testing.assert_array_equal(jax.vmap(jax.vmap(function))(twice), -twice)
    np.testing.assert_array_equal(function(stacked[0]), stacked[0])
    np.testing.assert_array_equal(jax.jacobian(function)(stacked[1]), -np.eye(2))
    assert " cond[" in str(jax.make_jaxpr(jax.vmap(function))(stacked))


@pytest.mark.parametrize("positive", [True, False])
def test_solve(positive):
    """Solutions and derivatives are those of JAX; for positive matrices along symmetric ones."""
    a = random(0, 5, 2, 3, 3)
    matrix = a @ a.swapaxes(-1, -2) + jnp.eye(3) if positive else a
    right = random(1, 5, 2, 4, 3)

    def own(a, b):
        return _jax.solve(a, b, positive=positive)

    def of_jax(a, b):
        return jnp.linalg.solve(a, b.swapaxes(-1, -2)).swapaxes(-1, -2)

    def number(function):
        def of(a, b):
            a = (a + a.swapaxes(-1, -2)) / 2 if positive else a
            return jnp.sin(function(a, b)).sum()

        return of

    np.testing.assert_allclose(own(matrix, right), of_jax(matrix, right), rtol=1e-11, atol=1e-11)
    one = matrix[0, 0], right[0, 0]
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        pairs = (jax.tree.leaves(derivative(number(f), (0, 1))(*one)) for f in (own, of_jax))
        for g, h in zip(*pairs, strict=True):
            np.testing.assert_allclose(g, h, rtol=1e-9, atol=1e-9)
    for axes in ((0, 0), (1, 1), (None, 0), (0, None)):
        given = zip((matrix, right), axes, strict=True)
        arrays = [a[0] if axis is None else a for a, axis in given]
        found, expected = (jax.vmap(f, axes)(*arrays) for f in (own, of_jax))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    assert np.isnan(own(-matrix, right)).all() == positive


def test_primitive_keeps_its_parameters():
    """As long as a program, lowered or compiled; but a serialized program does not hold them."""

    def lowered() -> tuple[Any, Any]:
        factors = tuple(Number(f) for f in (2.0, 0.5))
        program = jax.jit(lambda x: DOUBLED.bind(x, only=factors)).lower(X)
        return program, weakref.ref(factors[0])

    def forget() -> None:
        jax.clear_caches()
        gc.collect()

    program, number = lowered()
    forget()
    assert number() is not None
    program = program.compile()
    forget()
    assert number() is not None
    assert len(serialize_executable.serialize(program)) == 3
    del program
    forget()
    assert number() is None


class Number(float):
    """One that can be watched."""


def test_primitive_is_exported_in_terms_of_jax():
    program = export.export(jax.jit(lambda x: DOUBLED.bind(x, only=(2.0, 0.5))))(X)
    np.testing.assert_array_equal(program.call(X)[0], 2 * X)
