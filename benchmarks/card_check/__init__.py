"""One run on a card that says whether everything works there, and how fast it is."""
