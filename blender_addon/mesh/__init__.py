# SPDX-License-Identifier: GPL-3.0-or-later
"""From a depth map to an object: arrays and Geometry Nodes."""
