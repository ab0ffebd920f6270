"""The version of Ayni."""

__version__ = "0.1.0"
