"""From a trained model to vectors, codes, an index, and a saved query tower."""
