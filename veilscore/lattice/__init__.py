"""Ring-LWE kernel: numpy arrays in and out."""
