"""Folders of models: recognising, converting, loading, exporting."""
