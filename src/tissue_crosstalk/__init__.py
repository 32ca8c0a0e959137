"""Who in a tissue is talking to whom."""
__version__ = "0.1.0"
