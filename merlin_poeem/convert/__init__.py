"""Indexes to and from the files of Faiss, cuVS and Poeem."""
