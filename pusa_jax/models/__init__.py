"""The networks. No mesh, no file, no task."""
