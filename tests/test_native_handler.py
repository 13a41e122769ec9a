"""The handler of a kernel: an array that does not fit the kernel gives an error, not a crash."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import AUTO

import noria as nr

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")


class Call:
    """A call of a kernel by XLA: its arguments, of which ``sizes`` is the first, and results."""

    def __init__(self, arguments: list[Any], results: list[Any]):
        self.arguments, self.results = arguments, results

    def argument(self, n: int, change: Any) -> None:
        self.arguments[n] = change(self.arguments[n])

    def result(self, n: int, change: Any) -> None:
        old = self.results[n]
        new = change(jnp.zeros(old.shape, old.dtype))
        self.results[n] = jax.ShapeDtypeStruct(new.shape, new.dtype)


def longer(array: Any) -> Any:
    return jnp.concatenate([array, array[:1]])


def other(array: Any) -> Any:
    return array.astype(jnp.int8 if array.dtype != jnp.int8 else jnp.float32)


def with_zero(n: int) -> Any:
    return lambda sizes: np.where(np.arange(len(sizes)) == n, 0, sizes).astype(sizes.dtype)


WRONG = {
    "expected 7 args": lambda call: call.arguments.pop(),
    "expected 4 rets": lambda call: call.results.append(call.results[0]),
    "sizes is not of dtype int32": lambda call: call.argument(0, other),
    "sizes has another size": lambda call: call.argument(0, longer),
    "time must be at least one": lambda call: call.argument(0, with_zero(0)),
    "batch must be at least one": lambda call: call.argument(0, with_zero(1)),
    "block_steps must be at least one": lambda call: call.argument(0, with_zero(3)),
    "shares must be at least one": lambda call: call.argument(0, with_zero(4)),
    "models must be at least one": lambda call: call.argument(0, with_zero(5)),
    "scratch memory is not of dtype uint8": lambda call: call.result(-1, other),
    "scratch memory has another size": lambda call: call.result(-1, longer),
    **{
        f"input {n} is not of dtype float32": lambda call, n=n: call.argument(n + 1, other)
        for n in range(6)
    },
    **{
        f"input {n} has another size": lambda call, n=n: call.argument(n + 1, longer)
        for n in range(6)
    },
    **{
        f"output {n} is not of dtype float32": lambda call, n=n: call.result(n, other)
        for n in range(3)
    },
    **{f"output {n} has another size": lambda call, n=n: call.result(n, longer) for n in range(3)},
}


@pytest.mark.parametrize("models", [None, 2])
@pytest.mark.parametrize("message", WRONG)
def test_an_array_that_does_not_fit_gives_an_error(message, models, monkeypatch):
    """The inputs and results of an LSTM: all of its weights, its steps and its state."""
    original = jax.ffi.ffi_call

    def ffi_call(name: str, results: list[Any]) -> Any:
        def run(*arguments: Any, **attributes: Any) -> Any:
            call = Call(list(arguments), list(results))
            WRONG[message](call)
            found = original(name, call.results)(*call.arguments, **attributes)
            return [
                jnp.zeros(r.shape, r.dtype) + jnp.sum(found[0]).astype(r.dtype) for r in results
            ]

        return run

    monkeypatch.setattr(jax.ffi, "ffi_call", ffi_call)
    layer = nr.LSTM(3, 4, key=jax.random.key(0), dtype=jnp.float32, backend="native")
    run, xs = jax.jit(lambda layer, xs: layer.scan(None, xs)), jnp.ones((2, 5, 3), jnp.float32)
    if models:
        run, xs = jax.vmap(run, in_axes=(None, 0)), jnp.ones((models, *xs.shape), jnp.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(f"native kernel: {message}")):
        jax.block_until_ready(run(layer, xs))
