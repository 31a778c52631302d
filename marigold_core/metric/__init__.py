"""From affine-invariant depth to metres, by what the user knows of the scene."""
