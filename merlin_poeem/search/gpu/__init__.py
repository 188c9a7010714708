"""The search on a GPU: CUDA kernels, and the plan and launches around them."""
