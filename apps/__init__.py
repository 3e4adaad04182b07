"""What runs on the device: detection, expression, re-identification, overlay. Imports nothing heavier than the runtime."""
