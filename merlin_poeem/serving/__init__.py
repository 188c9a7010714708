"""What answers requests at the server, where neither Merlin nor NVTabular is installed."""
