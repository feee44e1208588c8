"""Where voxels lie and how a volume is walked; errors, knobs, weights, memory. Imports no other package."""
