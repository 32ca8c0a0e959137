"""Figures: data in, :class:`matplotlib.figure.Figure` out, without pyplot and its state."""
