"""Recurrences as functions of arrays; they know nothing of cells.

===================== ========================================================
`linear_recurrence`   ``h_t = a_t * h_(t-1) + b_t``, element by element
`semirings`           sum and product, or maximum and sum, as a recurrence needs them
`chunkwise`           ``S_t = D_t S_(t-1) + ...`` for matrices, chunk by chunk
`chunk_decays`        products of decays within a chunk
`chunk_scores`        scores of all pairs of steps within a chunk
`unit_triangular`     inverses of lower triangular matrices
===================== ========================================================
"""
