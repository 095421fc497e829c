"""Facts that come as files: CSV tables, image folders, pipeline folders, and whole graphs as tables."""
