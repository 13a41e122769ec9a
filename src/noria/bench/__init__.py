"""The same work on Noria and on other libraries: what ``noria bench`` runs."""
