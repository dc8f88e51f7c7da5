# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:c3f77ae93d6d

"""Measuring tools."""

from minisgl.measure.timing import interleaved_medians

__all__ = ["interleaved_medians"]
