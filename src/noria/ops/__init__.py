"""Recurrences as functions of arrays; they know nothing of cells.

===================== ========================================================
`linear_recurrence`   ``h_t = a_t * h_(t-1) + b_t``, element by element
`max_plus_recurrence` ``h_t = max(h_(t-1) + a_t, b_t)``, element by element
`chunkwise`           ``S_t = D_t S_(t-1) + ...`` for matrices, chunk by chunk
`chunk_decays`        products of decays within a chunk
`chunk_scores`        scores of all pairs of steps within a chunk
`unit_triangular`     inverses of lower triangular matrices
===================== ========================================================
"""
