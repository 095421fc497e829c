"""Defaults that commands and services share; nothing is imported here, so that help stays quick."""

# Of each dataset so many nearest ones are kept as SIMILAR.
NEIGHBOURS = 64
