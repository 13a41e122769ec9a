"""The matrices of the Legendre delay, and the normal part of HiPPO-LegS."""

import functools

import numpy as np


@functools.cache
def legendre(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrices ``A`` and ``B`` of the Legendre delay of ``theta`` steps, zero-order hold.

    They are blocks of the exponential of one matrix: a series for a part of it, then squaring.
    """
    i, j = np.arange(order)[:, None], np.arange(order)[None]
    M = np.zeros((order + 1, order + 1))
    M[:order, :order] = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / theta
    M[:order, order:] = (2 * i + 1) * (-1.0) ** i / theta
    squarings = max(0, int(np.ceil(np.log2(np.abs(M).sum(0).max()))) + 4)
    term = result = np.eye(order + 1)
    for k in range(1, 14):
        term = term @ M / 2.0**squarings / k
        result = result + term
    for _ in range(squarings):
        result = result @ result
    return result[:order, :order], result[:order, order]


def check_window(name: str, theta: float) -> None:
    if theta <= 0:
        raise ValueError(f"{name}(theta={theta}): expected a number of steps above 0.")


@functools.cache
def normal_hippo(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues above the real axis of the normal part of HiPPO-LegS, and their vectors."""
    n = np.arange(2 * pairs)
    root = np.sqrt(n + 0.5)
    skew = np.where(n[:, None] > n, -1.0, np.where(n[:, None] < n, 1.0, 0.0)) * np.outer(root, root)
    values, vectors = np.linalg.eigh(-1j * skew)
    return values[pairs:], vectors[:, pairs:]
