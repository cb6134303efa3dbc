"""CUDA: finding and opening the library of kernels, and what runs on it."""
