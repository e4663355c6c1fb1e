"""The referee for decoding strategies of diffusion language models."""

__version__ = "0.1.0"
