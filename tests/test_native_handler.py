"""The handler of a kernel: an array that does not fit the kernel gives an error, not a crash."""

import re
from collections.abc import Callable
from operator import methodcaller
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

    def argument(self, n: int, change: Callable[[Any], Any]) -> None:
        self.arguments[n] = change(self.arguments[n])

    def result(self, n: int, change: Callable[[Any], Any]) -> None:
        new = jax.eval_shape(change, self.results[n])
        self.results[n] = jax.ShapeDtypeStruct(new.shape, new.dtype)

    def zero(self, n: int) -> None:
        sizes = self.arguments[0]
        self.arguments[0] = np.where(np.arange(len(sizes)) == n, 0, sizes).astype(sizes.dtype)


def longer(array: Any) -> Any:
    return jnp.concatenate([array, array[:1]])


def other(array: Any) -> Any:
    return array.astype(jnp.int8)


#: What is wrong with a call, by the message.
WRONG: dict[str, Callable[[Call], Any]] = {
    "expected 7 args": lambda call: call.arguments.pop(),
    "expected 4 rets": lambda call: call.results.append(call.results[0]),
    "sizes is not of dtype int32": methodcaller("argument", 0, other),
    "sizes has another size": methodcaller("argument", 0, longer),
    "time must be at least one": methodcaller("zero", 0),
    "batch must be at least one": methodcaller("zero", 1),
    "block_steps must be at least one": methodcaller("zero", 3),
    "shares must be at least one": methodcaller("zero", 4),
    "models must be at least one": methodcaller("zero", 5),
    "scratch memory is not of dtype uint8": methodcaller("result", -1, other),
    "scratch memory has another size": methodcaller("result", -1, longer),
}
WRONG |= {
    f"{kind} {n} {text}": methodcaller(name, n + first, change)
    for kind, name, count, first in (("input", "argument", 6, 1), ("output", "result", 3, 0))
    for n in range(count)
    for text, change in (("is not of dtype float32", other), ("has another size", longer))
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
