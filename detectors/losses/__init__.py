"""What a head hands to a loss, and the losses of detection built on `rst.kernels`."""
