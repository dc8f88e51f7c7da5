"""Measuring tools."""

from minisgl.measure.timing import interleaved_medians

__all__ = ["interleaved_medians"]
