# Exported from notebooks/00_how_this_book_works.md by "minisgl book export"; edit it there. sha256:3fa96841b874

"""The kernels, under the names of Mini-SGLang's kernel package."""

from minisgl.kernel.index import indexing
from minisgl.kernel.pynccl import PyNCCLCommunicator, init_pynccl
from minisgl.kernel.radix import fast_compare_key
from minisgl.kernel.store import store_cache

__all__ = ["PyNCCLCommunicator", "fast_compare_key", "indexing", "init_pynccl", "store_cache"]
