"""The catalog, coded and grouped by list; how it is saved, loaded and copied."""
