# Exported from notebooks/00_how_this_book_works.md by "minisgl book export"; edit it there. sha256:2d4a9069b9ed

"""The kernels, under the names of Mini-SGLang's kernel package."""

from minisgl.kernel.index import indexing

__all__ = ["indexing"]
