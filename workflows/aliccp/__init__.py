"""Ali-CCP: two towers that learn its clicks together with their index, and a made-up Ali-CCP.

``merlin_poeem.datasets.aliccp`` reads the rows; ``simulation`` makes them up.
"""
