"""edge-stra: MobileNetV2 with Structure-Regularized Attention, exact and fast on devices."""

import os

# OpenCV reads it when it loads: a small file can ask for a picture of gigabytes, which has to be refused undecoded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")

__version__ = "0.1.0"
