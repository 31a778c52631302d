"""Checkpoints: find them, describe them, download them, load them.

`hub` turns a name into a folder, `layout` describes what a folder holds, `weights` reads headers,
`networks` builds diffusers models, `empty_prompt` computes the text condition.
"""
