"""Devices: the mesh and its rules, processes that run as one, compiled programs kept."""
