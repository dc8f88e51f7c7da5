# Exported from notebooks/00_how_this_book_works.md by "minisgl book export"; edit it there. sha256:d68d1358ab96

"""The kernels, under the names of Mini-SGLang's kernel package."""

from minisgl.kernel.index import indexing
from minisgl.kernel.store import store_cache

__all__ = ["indexing", "store_cache"]
