"""Calibration pictures, the ranges they give, quantization recipes (data, not code) and their application."""
