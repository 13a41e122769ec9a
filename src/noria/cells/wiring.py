"""The wiring of neurons: which synapses there are."""

import jax
import jax.numpy as jnp

from noria._types import Key


def _chosen(key: Key, rows: int, columns: int, count: int) -> jax.Array:
    """A mask with ``count`` random places in each row."""
    scores = jax.random.uniform(key, (rows, columns))
    return jnp.argsort(jnp.argsort(scores, axis=1), axis=1) < count


def _joined(key: Key, sources: int, targets: int, fanout: int) -> jax.Array:
    """Synapses, (targets, sources): ``fanout`` of each source, and some for a target without."""
    first, second = jax.random.split(key)
    found = _chosen(first, sources, targets, fanout).T
    mean = min(max(sources * fanout // targets, 1), sources)
    return found | (_chosen(second, targets, sources, mean) & ~found.any(1, keepdims=True))


def ncp_wiring(
    key: Key, in_size: int, hidden_size: int, motor_size: int, sparsity: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """The synapses of a neural circuit policy, as masks for the weights of any cell.

    Of the neurons that are no motor neurons, 40 % are command neurons and the rest are inter
    neurons. Inputs go to inter neurons, these to command neurons, which go to each other and to
    motor neurons. Each neuron is joined to a share ``1 - sparsity`` of the next layer. A neuron
    that nothing reaches is joined to as many as the others are on average.

    Args:
        key: random key.
        in_size: number of inputs.
        hidden_size: number of neurons: first motor neurons, then command and inter neurons.
        motor_size: number of motor neurons.
        sparsity: share of the synapses that are absent, from 0 to less than 1.

    Returns:
        Two masks of booleans, ``(hidden, hidden)`` and ``(hidden, in)``: rows are targets.

    Raises:
        ValueError: for fewer than two neurons besides motor neurons, or another sparsity.

    Source: Lechner et al. 2020, doi 10.1038/s42256-020-00237-3, in the form of ``AutoNCP`` of the
    authors' library ncps.

    Examples:
        >>> import jax, noria as nr
        >>> recurrent, inputs = nr.cells.ncp_wiring(jax.random.key(0), 3, 8, 2)
        >>> recurrent.shape, inputs.shape, bool(inputs[:2].any())
        ((8, 8), (8, 3), False)
    """
    rest = hidden_size - motor_size
    if rest < 2 or motor_size < 1 or not 0 <= sparsity < 1:
        raise ValueError(
            f"ncp_wiring(hidden_size={hidden_size}, motor_size={motor_size}, sparsity={sparsity}): "
            "expected a motor neuron and two others, and a sparsity from 0 to less than 1."
        )
    command = max(int(0.4 * rest), 1)
    inter, dense = rest - command, 1 - sparsity
    keys = jax.random.split(key, 4)
    M = jnp.zeros((hidden_size, hidden_size), bool)
    M_x = jnp.zeros((hidden_size, in_size), bool)
    M_x = M_x.at[motor_size + command :].set(
        _joined(keys[0], in_size, inter, max(int(inter * dense), 1))
    )
    middle = slice(motor_size, motor_size + command)
    share = max(int(command * dense), 1)
    M = M.at[middle, motor_size + command :].set(_joined(keys[1], inter, command, share))
    M = M.at[:motor_size, middle].set(_joined(keys[2], motor_size, command, share).T)
    count = max(int(command * dense * 2), 1)
    ends = motor_size + jax.random.randint(keys[3], (2, count), 0, command)
    return M.at[ends[0], ends[1]].set(True), M_x
