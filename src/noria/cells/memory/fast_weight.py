"""Fast weight programmer."""

import jax

from noria.cells.declare import state
from noria.cells.heads import MemoryCell, dpfp, outer, read


class FastWeightCell(MemoryCell):
    """A fast weight programmer with additive updates.

    ::

        q  = phi(W_q x),  k = phi(W_k x),  v = W_v x         for each head
        S' = S + k v^T
        y  = S'^T q                                          the output
        phi(a) = r_i r_(i + j)  for i = 1 .. 2 key, j = 1 .. nu,  r = relu([a, -a])

    Features are ordered by j, then by i; indices of ``r`` are modulo ``2 key``.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: numbers in a key; its features are ``2 * nu * key_size``.
        nu: number of products of each entry of ``r``.
        normalized: whether phi is divided by the sum of its features plus 1e-6.

    Source: Schmidhuber 1992; Schlag et al. 2021, arXiv 2102.11174, with its feature map DPFP.
    `DeltaNetCell` has the paper's delta rule. memax writes ``k v^T`` and reads ``S q``.
    """

    nu: int = 1
    normalized: bool = False
    S: jax.Array = state("heads", "2 * nu * key", "hidden // heads")

    def __check_init__(self) -> None:
        if self.nu < 1:
            raise ValueError(f"FastWeightCell(nu={self.nu}): expected at least 1.")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return S + outer(self._phi(self.key_of(x)), self.value(x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, self._phi(self.query(x))).reshape(-1)

    def _phi(self, a: jax.Array) -> jax.Array:
        features = dpfp(a, self.nu)
        if not self.normalized:
            return features
        return features / (features.sum(-1, keepdims=True) + 1e-6)
