"""Matrices of memories that approximate the past by Legendre polynomials, in NumPy."""

import functools

import numpy as np


@functools.cache
def delay(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
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


@functools.cache
def translated(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """``A`` and ``B`` of LegT: those of the Legendre delay, with normalised polynomials."""
    A, B = delay(order, theta)
    scale = (-1.0) ** np.arange(order) * np.sqrt(2 * np.arange(order) + 1)
    return A * scale / scale[:, None], B / scale


def scaled(order: int) -> tuple[np.ndarray, np.ndarray]:
    """``A`` and ``B`` of LegS: ``dc/dt = (A c + B x) / t``."""
    n = np.arange(order)
    r = np.sqrt(2 * n + 1)
    return np.tril(np.outer(-r, r), -1) - np.diag(n + 1.0), r


def normalised(order: int, theta: float | None) -> tuple[np.ndarray, np.ndarray]:
    """``A`` and ``B`` of LegT, or of LegS without a window."""
    return scaled(order) if theta is None else translated(order, theta)


def check_window(name: str, theta: float) -> None:
    """Reject a length of a window that is not positive."""
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
