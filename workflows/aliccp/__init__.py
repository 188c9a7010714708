"""Ali-CCP, read or made up, and two towers that learn its clicks together with their index.

Rows are read by ``raw``, ``samples``, ``parquet`` or, whichever a folder holds, ``rows``; they are
made up in ``simulation``. All come as tables of ``fields.SCHEMA``.
"""
