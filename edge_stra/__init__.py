"""edge-stra: MobileNetV2 with Structure-Regularized Attention, exact and fast on devices."""

__version__ = "0.1.0"
