"""``noria bench``: the same work on Noria and on other libraries."""
