"""The nerfstudio method: edits a captured scene with csd_core. Importing this package loads nothing else."""
