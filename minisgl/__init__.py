# Exported from notebooks/00_how_this_book_works.md by "minisgl book export"; edit it there. sha256:e0040b4939dd

"""The GPU kernels behind LLM inference, built chapter by chapter in the notebooks of this repository."""

__version__ = "0.1.0"
