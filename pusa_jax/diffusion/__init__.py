"""The method: per-frame noise levels, their tables, and the one sampling loop. Imports no model."""
