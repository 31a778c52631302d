"""Scenes with exact depth: ray-cast ones, and worlds that Blender renders."""
