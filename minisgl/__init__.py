"""The GPU kernels behind LLM inference, built chapter by chapter in the notebooks of this repository."""

__version__ = "0.1.0"
