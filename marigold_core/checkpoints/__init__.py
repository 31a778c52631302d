"""Checkpoints: find them, inspect them, download them, load them.

`hub`: names, the hub's cache, downloads. `config`: JSON files as data with a schema. `weights`:
weight files and their headers. `families`: what a checkpoint estimates. `inspection`: the
description of a whole checkpoint. `networks`, `empty_prompt`, `loading`: from files to networks.
`unet`, `autoencoder`, `layers`, `convolution`: the networks themselves, for inference alone.
`checksums`: SHA-256 of a folder's files.
"""
