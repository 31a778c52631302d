"""Depth into space, with numpy alone: points and triangles, a background layer, mesh files."""
