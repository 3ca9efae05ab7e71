"""Scenes: reading, region trees, normals, views and synthetic rooms."""
