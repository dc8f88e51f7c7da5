"""The kernels, under the names of Mini-SGLang's kernel package."""

from minisgl.kernel.index import indexing

__all__ = ["indexing"]
