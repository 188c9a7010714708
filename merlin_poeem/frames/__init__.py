"""Frames in, frames out: columns to arrays, and results, titles and texts back as frames."""
